"""Fitting of layers through the command line: once in a run, however often it is interrupted."""

import json

from support import NETWORK

from intraq_deploy.training import student

MINE = """
extends = "quick"

[synthesis]
images = 8
iterations = 2

[fitting]
compensate = true
correct = true

[training]
steps = 3
batch = 4
"""


def test_an_interrupted_run_does_not_fit_again(run, checkpoint, tmp_path, monkeypatch):
    def save_and_interrupt(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    def forbidden(*_):
        raise AssertionError

    (tmp_path / "mine.toml").write_text(MINE)
    command = ["quantize", checkpoint, *NETWORK, "--recipe", tmp_path / "mine.toml", "--overwrite", "--out"]
    monkeypatch.setattr(student, "_CHECKPOINT_STEPS", 1)
    save = student.save_checkpoint
    assert run(*command, tmp_path / "whole").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(student, "save_checkpoint", save_and_interrupt)
        assert run(*command, tmp_path / "cut").exit_code == 130
    monkeypatch.setattr(student, "fit_layers", forbidden)
    result = run(*command, tmp_path / "cut")
    assert result.exit_code == 0, result.output
    for file in ("program/program.json", "targets/onnxruntime/model.onnx"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["parity"]["onnxruntime"]["integers_mismatched"] == 0

    (tmp_path / "mine.toml").write_text(MINE.replace(" = true", " = false"))
    result = run(*command, tmp_path / "cut")
    assert "fine-tuning: done" in result.stderr, "a student that is not fitted is another one"
