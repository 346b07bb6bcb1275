"""The notebook: nothing that it printed is kept, and it runs from its first cell to its last."""

import ast
import re
from pathlib import Path

import pytest

import intraq_deploy

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quantize.ipynb"


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat", reason="pip install nbclient")
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    return found


def test_outputs_are_stripped(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 5
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_it_uses_the_public_names(notebook):
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in imported} == {"intraq_deploy"}
    assert {name.name for node in imported for name in node.names} <= set(intraq_deploy.__all__)


def test_links_exist(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    assert all((NOTEBOOK.parent / link).is_file() for link in links)


@pytest.mark.slow
def test_it_runs(notebook, tmp_path):
    pytest.importorskip("ipykernel", reason="pip install ipykernel")
    client = pytest.importorskip("nbclient", reason="pip install nbclient")
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = "\n".join(str(output.get("text") or output.data) for output in outputs)
    assert "data:image/png;base64," in shown, "the images"
    assert re.search(r"\b0 of [\d,]{6,} integers differ", shown)
    (same,) = re.findall(r"(\d+) of 32 images are of the class", shown)
    assert int(same) > 16
    assert (tmp_path / "runs" / "notebook" / "model.onnx").is_file()
