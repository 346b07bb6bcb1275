"""Fitting of layers through the command line: once in a run, however often it is interrupted."""

import json

from support import NETWORK

from intraq_deploy.training import layerwise, student

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


def test_an_interrupted_fit_goes_on_at_the_layer_where_it_was(run, checkpoint, tmp_path, monkeypatch):
    rounded = []

    def interrupted(*arguments):
        if len(rounded) == 3:
            raise KeyboardInterrupt
        rounded.append(arguments)
        return rounding(*arguments)

    (tmp_path / "mine.toml").write_text(MINE)
    command = ["quantize", checkpoint, *NETWORK, "--recipe", tmp_path / "mine.toml", "--out"]
    monkeypatch.setattr(student, "_CHECKPOINT_SECONDS", 0)
    assert run(*command, tmp_path / "whole").exit_code == 0
    rounding = layerwise._round
    with monkeypatch.context() as patch:
        patch.setattr(layerwise, "_round", interrupted)
        assert run(*command, tmp_path / "cut").exit_code == 130
    assert sorted(file.name for file in (tmp_path / "cut" / "unfinished" / "fitting").iterdir()) == [
        "fitted.safetensors",
        "unfinished.json",
    ]
    count = []
    monkeypatch.setattr(layerwise, "_round", lambda *arguments: count.append(arguments) or rounding(*arguments))
    result = run(*command, tmp_path / "cut")
    assert result.exit_code == 0, result.output
    layers = [each for each in json.loads((tmp_path / "cut" / "run.json").read_text())["layers"] if each["weights"]]
    assert len(count) == len(layers) - 3
    for file in ("fitting/student.safetensors", "program/program.json", "targets/onnxruntime/model.onnx"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not (tmp_path / "cut" / "fitting" / "fitted.safetensors").exists()


def test_other_steps_keep_the_fit(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAQ_DEPLOY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.toml").write_text(MINE)
    command = ["quantize", checkpoint, *NETWORK, "--recipe", tmp_path / "mine.toml", "--out"]
    assert "fitting: done" in run(*command, tmp_path / "one").stderr
    result = run(*command, tmp_path / "two", "--steps", "2")
    assert "fitting: kept from before" in result.stderr
    assert "fine-tuning: done" in result.stderr
    again = run(*command, tmp_path / "two", "--steps", "2")
    assert "fine-tuning: kept from before" in again.stderr
    seconds = json.loads((tmp_path / "two" / "run.json").read_text())["seconds"]
    assert seconds["fitting"] > 0, "the time of what was kept counts"
