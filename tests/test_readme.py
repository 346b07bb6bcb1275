"""What the documentation tells people to type works."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from intraq_deploy import api
from intraq_deploy.cli.main import app
from intraq_deploy.recipes import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SMALL = """
[synthesis]
images = 8
iterations = 2
[training]
steps = 2
batch = 4
learning_rate = 1e-4
"""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "examples").rglob("README.md"))


def blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def commands():
    """Every intraq-deploy command line of the pages, up to where its output goes."""
    lines = "\n".join(block for page in PAGES for block in blocks("sh", page.read_text()))
    lines = lines.replace("\\\n", " ").splitlines()
    return sorted({line.partition(" > ")[0] for line in lines if line.startswith("intraq-deploy")})


def test_the_python_example(tmp_path, monkeypatch, capsys):
    """As it stands, with a smaller budget behind the name of its recipe."""
    monkeypatch.setattr(api, "recipe_file", lambda name: parse(name, SMALL))
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(r"0 of [\d,]+ integers differ\ntop-1 [89]\d\.\d\d %\n", capsys.readouterr().out)
    assert (tmp_path / "shipped" / "model.onnx").is_file()


def test_there_are_commands():
    assert len(commands()) >= 20


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    name, *arguments = shlex.split(line, comments=True)
    parser = typer.main.get_command(app)
    while hasattr(parser, "commands"):
        name, *arguments = arguments
        parser = parser.commands[name]
    parser.make_context(name, arguments)


def anchors(page):
    """The names by which GitHub lets a link name the page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_files_exist(page):
    text = page.read_text()
    linked = [link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:intraq_deploy|cli|targets|tests|docs|benchmarks|examples)/[\w./]*)`", text)
    for name, _, anchor in linked:
        assert (page.parent / name).exists(), name
        assert not anchor or anchor in anchors(page.parent / name if name else page), f"{name}#{anchor}"
    for name in named:
        assert (ROOT / name).exists(), name


def test_the_index_has_every_page():
    linked = re.findall(r"^\| \[([\w-]+\.md)\]", (ROOT / "docs" / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(linked) == sorted(page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md")


def test_every_make_target_exists():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = {
        name
        for page in PAGES
        for name in re.findall(r"\bmake ((?:test|demo|check|lock|env|clean)[\w-]*)", page.read_text())
    }
    assert named <= set(targets)
    assert {"demo", "test", "check"} <= named
