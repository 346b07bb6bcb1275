"""What the site has beyond the files of docs/: pages from the repository's root, and references made from the code.

MkDocs calls the functions named on_... A page says `<!-- reference: NAME -->` where a reference of reference.py goes.
"""

import json
import posixpath
import re
import tempfile
from pathlib import Path

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "docs/README.md": "pages.md",
}
"""Pages of the site by their file in the repository; all others are below docs/ and keep their names."""
SCHEMA = "reference/run.schema.json"

_package = tempfile.TemporaryDirectory()


@event_priority(100)  # before mkdocstrings reads it
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Shows mkdocstrings the package as it installs: cli/ and targets/ stand at the top level."""
    package = Path(_package.name) / "intraq_deploy"
    package.mkdir(exist_ok=True)
    for entry in [*(ROOT / "intraq_deploy").iterdir(), ROOT / "cli", ROOT / "targets"]:
        if not (package / entry.name).exists():
            (package / entry.name).symlink_to(entry.resolve())
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_package.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not below docs/, and run.json's schema."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, SCHEMA, content=json.dumps(reference.run_schema(), indent=2)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts references in, and turns links between files of the repository into links between pages of the site."""
    if page.parent is None:  # no other page beside it
        page.meta["hide"] = ["navigation"]
    markdown = re.sub(r"^<!-- reference: (\w+) -->$", lambda found: reference.MAKERS[found[1]](), markdown, flags=re.M)
    return re.sub(r"\[([^]]*)\]\(([^)#:]+)", lambda found: _link(page.file.src_uri, *found.groups(), files), markdown)


def _link(page: str, text: str, link: str, files: Files) -> str:
    """Returns the start of a link of a page, without the anchor: to the page of the file that is named, and with its
    title in place of the file's name."""
    source = next((source for source, place in PAGES.items() if place == page), f"docs/{page}")
    linked = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    place = PAGES.get(linked, linked.removeprefix("docs/"))
    found = files.get_file_from_path(place)
    if text.endswith(".md") and found is not None and found.page is not None:
        text = str(found.page.title)
    return f"[{text}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}"
