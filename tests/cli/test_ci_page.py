"""The gate that the page about continuous integration shows, on the report of a real run."""

import json

import pytest
from test_readme import DOCS, blocks


def gate(report, folder, monkeypatch):
    """Runs the page's gate.py on a report."""
    (script,) = blocks("python", (DOCS / "how-to" / "ci.md").read_text())
    monkeypatch.chdir(folder)
    (folder / "report.json").write_text(json.dumps(report))
    exec(compile(script, "gate.py", "exec"), {})


def test_the_gate_of_a_pipeline(finished, tmp_path, monkeypatch, capsys):
    report = json.loads((finished / "run.json").read_text())
    gate(report, tmp_path, monkeypatch)
    assert "0 of 211,456 integers differ where none may" in capsys.readouterr().out
    gate(report | {"accuracy": {"float": 92.5, "onnxruntime": 92.0, "images": 1000}}, tmp_path, monkeypatch)
    assert "0.50 points of top-1 lost on 1,000 images" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="more than a point is lost"):
        gate(report | {"accuracy": {"float": 92.5, "onnxruntime": 91.0, "images": 1000}}, tmp_path, monkeypatch)
