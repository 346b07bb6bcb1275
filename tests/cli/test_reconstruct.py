"""Block-wise reconstruction through the command line: what is shipped is still what was made."""

import json

import pytest
from support import NETWORK

from intraq_deploy.training import student

MINE = """
extends = "quick"

[synthesis]
images = 8
iterations = 2

[training]
steps = 2
batch = 4

[reconstruction]
steps = 3
batch = 4
"""


def report_of(directory):
    return json.loads((directory / "run.json").read_text())


@pytest.fixture
def command(checkpoint, tmp_path):
    """A run with a small recipe, up to its name."""
    (tmp_path / "mine.toml").write_text(MINE)
    return ["quantize", checkpoint, *NETWORK, "--recipe", tmp_path / "mine.toml", "--overwrite", "--out"]


def test_a_reconstructed_run(run, command, tmp_path):
    directory = tmp_path / "run"
    result = run(*command, directory, "--reconstruct")
    assert result.exit_code == 0, result.output
    report = report_of(directory)
    assert (report["status"], report["reconstructed"], report["steps"]) == ("passed", True, 2)
    assert report["parity"]["onnxruntime"]["integers_mismatched"] == 0
    left = ["losses.csv", "noise.json", "stage.json", "student.safetensors"]
    assert sorted(file.name for file in (directory / "fine-tuning").iterdir()) == left
    assert run("validate", directory).exit_code == 0
    assert "fine-tuning: kept from before" in run(*command, directory, "--reconstruct").stderr
    result = run(*command, directory)
    assert "fine-tuning: done" in result.stderr
    assert report_of(directory)["reconstructed"] is False


def test_the_recipe_says_so_too_and_other_steps_are_another_student(run, command, tmp_path):
    for steps in ("3", "4"):
        own = MINE.replace("steps = 3", f"enabled = true\nsteps = {steps}")
        (tmp_path / "mine.toml").write_text(own)
        result = run(*command, tmp_path / "run", "--steps", "1")
        assert result.exit_code == 0, result.output
        assert "fine-tuning: done" in result.stderr
    report = report_of(tmp_path / "run")
    assert (report["status"], report["reconstructed"], report["steps"]) == ("passed", True, 1)
    assert report["parity"]["onnxruntime"]["integers_mismatched"] == 0


@pytest.mark.parametrize("way", [("--method", "ptq"), ("--steps", "0")], ids=["ptq", "steps"])
def test_without_training_it_has_to_be_asked_for(run, command, tmp_path, way):
    (tmp_path / "mine.toml").write_text(MINE.replace("steps = 3", "enabled = true\nsteps = 3"))
    for asked, expected in (((), False), (("--reconstruct",), True)):
        result = run(*command, tmp_path / "run", *way, *asked)
        assert result.exit_code == 0, result.output
        report = report_of(tmp_path / "run")
        assert (report["status"], report["reconstructed"], report["steps"]) == ("passed", expected, 0)


def test_an_interrupted_run_does_not_reconstruct_again(run, command, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    def forbidden(*_):
        raise AssertionError

    assert run(*command, tmp_path / "whole", "--reconstruct").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(student, "Trainer", interrupt)
        assert run(*command, tmp_path / "cut", "--reconstruct").exit_code == 130
    assert (tmp_path / "cut" / "unfinished" / "fine-tuning" / "reconstructed.safetensors").exists()
    monkeypatch.setattr(student, "reconstruct", forbidden)
    result = run(*command, tmp_path / "cut", "--reconstruct")
    assert result.exit_code == 0, result.output
    for file in ("program/program.json", "targets/onnxruntime/model.onnx"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_min_max_ranges_are_refused_before_anything_is_made(run, command, tmp_path):
    result = run(*command, tmp_path / "run", "--reconstruct", "--scheme", "paper")
    assert result.exit_code == 2
    assert "Reconstruction needs learned ranges, and these are min-max" in result.stderr
    assert not (tmp_path / "run").exists()
