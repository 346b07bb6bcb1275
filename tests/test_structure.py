"""The map of the repository, held: packages, who imports whom, what importing costs."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import intraq_deploy

ROOT = Path(__file__).parents[1]
HOMES = {
    "intraq_deploy": ROOT / "intraq_deploy",
    "intraq_deploy.cli": ROOT / "cli",
    "intraq_deploy.targets": ROOT / "targets",
}

# Rooms of the method, and what each may import besides itself; errors, files, seeds and the version are everybody's.
COMMON = {"errors", "files", "seeds", "__version__"}
ALLOWED = {
    "graph": set(),
    "models": set(),
    "data": {"models"},
    "synthesis": {"models"},
    "quantization": {"graph"},
    "training": {"graph", "quantization", "synthesis"},
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


def modules():
    """Every module of the package by dotted name, with its file."""
    for package, folder in HOMES.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), file


def imports_of(file):
    """The rooms of ours that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("intraq_deploy."):
                yield name.split(".")[1]


def test_pyproject_lists_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {name for name, file in modules() if file.name == "__init__.py"}
    assert sorted(found) == sorted(listed)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room):
    forbidden = {
        f"{name} imports {imported}"
        for name, file in modules()
        if name.split(".")[1:2] == [room]
        for imported in imports_of(file)
        if imported not in ALLOWED[room] | COMMON | {room}
    }
    assert not forbidden


def test_every_room_has_a_rule():
    rooms = {name.split(".")[1] for name, file in modules() if name.count(".") == 1 and file.name == "__init__.py"}
    assert rooms == set(ALLOWED)


def test_the_reference_imports_no_runtime():
    program_files = [
        file for name, file in modules() if name.startswith(("intraq_deploy.program", "intraq_deploy.evaluation"))
    ]
    assert len(program_files) > 8
    for file in program_files:
        assert not any(word in file.read_text() for word in ("import onnx", "import tensorrt")), file


def test_synthesis_quantization_and_training_share_no_loop():
    for name, file in modules():
        if name.startswith("intraq_deploy.training"):
            assert "synthesis.loop" not in file.read_text()


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
