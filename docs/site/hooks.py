"""What the site has beyond the files of docs/: pages from the repository's root, and references made from the code.

MkDocs calls the functions named on_... A page says `<!-- reference: NAME -->` where a reference of reference.py goes.
"""

import json
import posixpath
import re
import tempfile
from pathlib import Path, PurePosixPath

import reference
from mkdocs.config.defaults import MkDocsConfig
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
    return re.sub(
        r"\[([^]]*)\]\(([^)#:]+)",
        lambda found: f"[{_title(found[1], page, found[2])}]({_on_site(page.file.src_uri, found[2])}",
        markdown,
    )


def _title(text: str, page: Page, link: str) -> str:
    """Returns a link's text, and the title of the page in place of a file's name."""
    file = ROOT / _source(page.file.src_uri).parent / link
    if not text.endswith(".md") or file.parent == ROOT:
        return text
    return file.read_text().partition("\n")[0].removeprefix("# ")


def _source(page: str) -> PurePosixPath:
    """Returns the file of a page, from the repository's root."""
    return PurePosixPath(next((source for source, place in PAGES.items() if place == page), f"docs/{page}"))


def _on_site(page: str, link: str) -> str:
    """Returns where a page of the site finds what its file in the repository links to."""
    linked = posixpath.normpath(_source(page).parent / link)
    return posixpath.relpath(PAGES.get(linked, linked.removeprefix("docs/")), posixpath.dirname(page) or ".")
