"""What the documentation tells people to type works."""

import ast
import inspect
import re
import shlex
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import typer
from source import modules
from typer.testing import CliRunner

from intraq_deploy import api
from intraq_deploy.cli.main import app
from intraq_deploy.recipes import parse
from intraq_deploy.targets.profile import TargetProfile

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
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PAGES += sorted((ROOT / "examples").rglob("README.md"))


def blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def commands():
    """Every intraq-deploy command line of the pages, up to where its output goes."""
    lines = "\n".join(block for page in PAGES for block in blocks("sh", page.read_text()))
    lines = lines.replace("\\\n", " ").splitlines()
    return sorted({line.partition(" > ")[0] for line in lines if line.startswith("intraq-deploy")})


def snippets(language):
    """Every block of that language, with the page and its place there for the test's name."""
    found = [(page, block) for page in PAGES for block in blocks(language, page.read_text())]
    return [pytest.param(block, id=f"{page.stem}-{number}") for number, (page, block) in enumerate(found)]


def completed(parameter, context, value):
    """Whether a value is one that the shell would complete; paths, and options without completion, count too."""
    known = [item.value for item in parameter.shell_complete(context, "") if item.type == "plain"]
    return not known or value in known or Path(value).suffix or "/" in value


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
    context = parser.make_context(name, arguments)
    for parameter in parser.params:
        given = context.params[parameter.name]
        for value in given if isinstance(given, list | tuple) else [given]:
            assert not isinstance(value, str) or completed(parameter, context, value), f"{parameter.name} {value}"


def test_unknown_values_are_found():
    parser = typer.main.get_command(app).commands["quantize"]
    context = parser.make_context("quantize", ["model.pth"])
    presets = next(parameter for parameter in parser.params if parameter.name == "preset")
    assert completed(presets, context, "best")
    assert not completed(presets, context, "fastest")


def test_blocks_are_of_known_languages():
    languages = {name for page in PAGES for name in re.findall(r"^ *```(\w+)$", page.read_text(), flags=re.MULTILINE)}
    assert languages <= {"sh", "python", "toml", "yaml"}, "tests read these"


@pytest.mark.parametrize("block", snippets("python"))
def test_python_snippets_compile_and_import_what_there_is(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("intraq_deploy"):
            for alias in node.names:
                assert hasattr(import_module(node.module), alias.name), alias.name
            callables = {alias.name: getattr(import_module(node.module), alias.name) for alias in node.names}
            for call in ast.walk(ast.parse(block)):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in callables:
                    names = {keyword.arg for keyword in call.keywords}
                    assert names <= set(inspect.signature(callables[call.func.id]).parameters), call.func.id


@pytest.mark.parametrize("block", snippets("toml"))
def test_toml_snippets_are_profiles(block):
    TargetProfile.model_validate(tomllib.loads(block))


@pytest.mark.parametrize("block", snippets("yaml"))
def test_commands_in_workflows_parse(block):
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    steps = [step for job in yaml.safe_load(block)["jobs"].values() for step in job["steps"]]
    lines = [step["run"] for step in steps if step.get("run", "").startswith("intraq-deploy")]
    assert lines
    for line in lines:
        test_commands_parse(line.partition(" > ")[0])


def test_the_network_of_ones_own(tmp_path, monkeypatch):
    """The page's file makes its checkpoint, and its command inspects it."""
    page = (DOCS / "how-to" / "architecture.md").read_text()
    source = blocks("python", page)[0]
    command = next(line for block in blocks("sh", page) for line in block.splitlines() if "inspect mynet.pth" in line)
    (tmp_path / "mynet.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "mynet.py", "exec"), {"__name__": "__main__"})
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert "It can be quantized, without any data." in result.output


@cache
def sentences():
    """Every text of the source, an ellipsis for each value in it."""
    found = set()
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


@pytest.mark.parametrize(
    "message", re.findall(r"^### (.*)$", (DOCS / "how-to" / "troubleshooting.md").read_text(), flags=re.MULTILINE)
)
def test_messages_are_those_of_the_code(message):
    pattern = re.compile(".*".join(map(re.escape, message.strip("… ").split("…"))), flags=re.DOTALL)
    assert any(pattern.search(sentence) for sentence in sentences())


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
    linked = re.findall(r"^\| \[([\w/-]+\.md)\]", (DOCS / "README.md").read_text(), flags=re.MULTILINE)
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert sorted(linked) == sorted(page for page in pages if page != "README.md")


def test_every_make_target_exists():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = {
        name
        for page in PAGES
        for name in re.findall(r"\bmake ((?:test|demo|check|lock|env|clean|site)[\w-]*)", page.read_text())
    }
    assert named <= set(targets)
    assert {"demo", "test", "check"} <= named
