"""The map of the repository, held: packages, who imports whom, how large files and functions are, what importing costs.

Exceptions stand in a table, each with its reason; one that is no longer needed fails.
"""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter

import pytest
from source import FUNCTIONS, ROOT, TOP_LEVEL, in_room, modules, parameters, rooms

import intraq_deploy

# Rooms of the method, and what each may import besides itself; these modules are everybody's.
COMMON = {"errors", "files", "seeds", "team", "version", "wording"}
ALLOWED = {
    "graph": set(),
    "models": set(),
    "data": {"models"},
    "synthesis": {"models"},
    "quantization": {"graph"},
    "training": {"graph", "program", "quantization", "synthesis"},
    "recipes": {"quantization", "synthesis", "training"},
    "program": {"graph", "quantization"},
    "evaluation": {"program"},
    "targets": {"graph", "program", "evaluation"},
    "pipeline": {
        "data",
        "evaluation",
        "graph",
        "models",
        "program",
        "quantization",
        "recipes",
        "synthesis",
        "targets",
        "training",
    },
    "cli": {"pipeline", "recipes"},
}


MOST_LINES = 350
MOST_PARAMETERS = 6
MANY_PARAMETERS = {
    "intraq_deploy.api.synthesize": "the Python face of synthesis: one keyword for each option of a person",
    "intraq_deploy.models.loading.load_model": "the Python face of loading: one keyword for each option of a person",
    "intraq_deploy.api.quantize": "the Python face of quantizing: one keyword for each option of a person",
    "intraq_deploy.synthesis.make.make_images": "four say what is made; three optional ones resume and watch it",
    "intraq_deploy.training.layerwise.fit_layers": "the parameters of every training, and one to watch it",
    "intraq_deploy.training.loop.Trainer.__init__": "the parameters of every training, and who trains",
    "intraq_deploy.training.reconstruction.reconstruct": "the parameters of every training, and one to watch it",
}
"""Functions that may have more than MOST_PARAMETERS parameters, and why; commands of the command line may as well."""


def rooms_imported(tree):
    """Yields the rooms of ours that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("intraq_deploy."):
                yield name.split(".")[1]


def is_for_types_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_of(tree, known):
    """Returns the modules among `known` that a module imports, by dotted name, those that functions import included.

    `from package import name` imports the module package.name where that is one, else the package.
    """
    found, left = set(), [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in full}
        left += node.orelse if is_for_types_only(node) else ast.iter_child_nodes(node)
    return found & known


def circle_among(imports):
    """Returns one circle of imports, as a list of names; None where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def many_parameters(tree):
    """Yields the dotted name of every function in a module that has too many, those inside others too.

    Commands of the command line, which are functions with a decorator, are left out by the caller.
    """

    def inside(node, prefix):
        for child in ast.iter_child_nodes(node):
            name = f"{prefix}{child.name}." if isinstance(child, (*FUNCTIONS, ast.ClassDef)) else prefix
            if isinstance(child, FUNCTIONS) and len(parameters(child)) > MOST_PARAMETERS:
                yield name.removesuffix("."), child
            yield from inside(child, name)

    yield from inside(tree, "")


def functions_with_many_parameters():
    """Yields the dotted names of all such functions of the package but the commands of the command line."""
    for module in modules():
        for name, function in many_parameters(module.tree):
            if not module.is_command(function):
                yield module.room, f"{module.name}.{name}"


def rows_of_the_map(readme):
    """Yields the first cell of every row of the table under "How it is built", as folders."""
    section = re.search(r"^## How it is built$(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    assert section, "README.md has no section How it is built"
    for row in re.findall(r"^\|(.*?)\|", section[1], re.MULTILINE):
        yield from re.findall(r"`([\w/]+)/`", row)


def folders():
    """Every folder that the map has to name: the rooms, and what stands beside the package."""
    inside = {file.parent.name for file in (ROOT / "intraq_deploy").glob("*/__init__.py")}
    return {f"intraq_deploy/{name}" for name in inside} | {"targets", "cli", "benchmarks", "examples"}


def test_pyproject_lists_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(module.name for module in modules() if module.is_package) == sorted(listed)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room):
    forbidden = {
        f"{module.name} imports {imported}"
        for module in in_room(room)
        for imported in rooms_imported(module.tree)
        if imported not in ALLOWED[room] | COMMON | {room}
    }
    assert not forbidden


def test_every_room_has_a_rule():
    assert set(rooms()) - {TOP_LEVEL} == set(ALLOWED)


def test_no_modules_import_each_other_in_a_circle():
    known = {module.name for module in modules()}
    imports = {module.name: imports_of(module.tree, known) - {module.name} for module in modules()}
    assert sum(map(len, imports.values())) > len(known)  # the graph is there
    circle = circle_among(imports)
    assert circle is None


def test_no_module_imports_the_package_itself():
    # It imports them, on first use.
    known = {module.name for module in modules()}
    importers = [m.name for m in modules() if "intraq_deploy" in imports_of(m.tree, known)]
    assert not importers


@pytest.mark.parametrize("room", rooms())
def test_no_file_is_too_long(room):
    lengths = {module.name: len(module.file.read_text().splitlines()) for module in in_room(room)}
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES}


@pytest.mark.parametrize("room", rooms())
def test_no_function_has_too_many_parameters(room):
    assert not [
        name for where, name in functions_with_many_parameters() if where == room and name not in MANY_PARAMETERS
    ]


def test_every_exception_is_needed_and_has_a_reason():
    needed = {name for _, name in functions_with_many_parameters()}
    assert not MANY_PARAMETERS.keys() - needed
    assert all(len(reason.split()) > 3 for reason in MANY_PARAMETERS.values())


def test_the_readme_names_every_room_once():
    named = list(rows_of_the_map((ROOT / "README.md").read_text()))
    assert sorted(set(named)) == sorted(named)
    assert folders() <= set(named)
    parts = {f"targets/{file.parent.name}" for file in (ROOT / "targets").glob("*/[!_]*.py")}
    assert not parts & set(named) or parts <= set(named), "the parts of targets/ are named all, or none"
    for name in named:
        assert (ROOT / name).is_dir(), name


def test_the_reference_imports_no_runtime():
    program_files = [module.file for module in modules() if module.room in ("program", "evaluation")]
    assert len(program_files) > 8
    for file in program_files:
        assert not any(word in file.read_text() for word in ("import onnx", "import tensorrt")), file


def test_synthesis_quantization_and_training_share_no_loop():
    for module in in_room("training"):
        assert "synthesis.loop" not in module.file.read_text()


def test_the_public_face_is_importable():
    for name in intraq_deploy.__all__:
        assert getattr(intraq_deploy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = intraq_deploy.absent


@pytest.mark.parametrize("module", ["intraq_deploy", "intraq_deploy.cli.main", "intraq_deploy.recipes"])
def test_importing_needs_neither_torch_nor_a_runtime(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert result.stdout.strip() == "[]"


# The rules on small examples: they see what they are for.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b", {"a.b"}),
        ("from a import b", {"a.b"}),
        ("from a import f", {"a"}),
        ("from a.b import g", {"a.b"}),
        ("try:\n  import a\nexcept ImportError:\n  pass", {"a"}),
        ("class C:\n  import a", {"a"}),
        ("def f():\n  import a", {"a"}),
        ("if TYPE_CHECKING:\n  import a", set()),
        ("if TYPE_CHECKING:\n  import a\nelse:\n  import a.b", {"a.b"}),
        ("import os", set()),
    ],
)
def test_imports_are_found(source, expected):
    assert imports_of(ast.parse(source), {"a", "a.b"}) == expected


def test_circles_are_found():
    assert circle_among({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert set(circle_among({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}


def test_many_parameters_are_found():
    tree = ast.parse(
        "def few(a, b, c, d, e, f): ...\n"
        "class C:\n  def bound(self, a, b, c, d, e, f): ...\n  def many(self, a, b, *, c, d, e, f, **g): ...\n"
        "def outer():\n  if a:\n    def inner(a, b, /, c, d, *e, f, g): ...\n"
    )
    assert [name for name, _ in many_parameters(tree)] == ["C.many", "outer.inner"]


def test_rows_of_the_map_are_found():
    rows = "| where | what |\n|---|---|\n| `a/b/` | one, `c/` |\n| `d/` | two |\n"
    readme = f"## Other\n| `x/` | no |\n## How it is built\n{rows}## Z\n| `y/` |\n"
    assert list(rows_of_the_map(readme)) == ["a/b", "d"]
