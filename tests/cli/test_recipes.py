"""Recipes through the command line: the built-in ones shown, a person's own used, and training left out."""

import json
import subprocess
import sys
import tomllib

import pytest
from support import NETWORK, TINY

from intraq_deploy.recipes import BUILTIN, builtin

BUILT_IN = "builtin:resnet20-cifar10"
MINE = """
description = "as small as can be"
extends = "standard"

[synthesis]
images = 8
iterations = 2
batch = 4

[training]
steps = 2
batch = 4

[[when]]
classes_at_most = 10
training.steps = 3
"""


def report_of(directory):
    return json.loads((directory / "run.json").read_text())


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run with a recipe that is gone, on the built-in network."""
    from typer.testing import CliRunner

    from intraq_deploy.cli.main import app

    home = tmp_path_factory.mktemp("own")
    (home / "mine.toml").write_text(MINE)
    command = ["quantize", BUILT_IN, "--recipe", str(home / "mine.toml"), "--out", str(home / "run")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "8 images for 10 classes: 2 classes have none; give more --images, 10 for one of each." in result.stderr
    (home / "mine.toml").unlink()
    return home


# --- shown ---------------------------------------------------------------------------------------------


def test_the_list_says_what_each_is_for_and_how_much_work(run):
    result = run("recipes", "list")
    assert result.exit_code == 0, result.output
    for name in BUILTIN:
        assert f"{name}: {builtin(name).description}" in result.stdout
    assert "32 x 32 pixels, 10 classes: 256 images x 120 iterations, 150 steps x 64" in result.stdout
    assert "224 x 224 pixels, 1,000 classes: 128 images x 100 iterations, not trained" in result.stdout
    assert "224 x 224 pixels, 1,000 classes: 5,120 images x 1,000 iterations, 29,400 steps x 16" in result.stdout
    rows = json.loads(run("recipes", "list", "--json").stdout)
    assert [row["name"] for row in rows] == list(BUILTIN)
    assert rows[0]["budgets"][1] == {
        "side": 224, "classes": 1000, "images": 128, "iterations": 100, "steps": 0, "batch": 16,
    }  # fmt: skip


@pytest.mark.parametrize("name", BUILTIN)
def test_what_is_shown_is_a_start(run, name):
    shown = run("recipes", "show", name)
    assert shown.exit_code == 0, shown.output
    assert tomllib.loads(shown.stdout) == builtin(name).values
    assert json.loads(run("recipes", "show", name, "--json").stdout) == builtin(name).values


def test_an_unknown_name_is_met_with_the_nearest(run):
    result = run("recipes", "show", "standart")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "Error: The recipe 'standart' is unknown: did you mean standard?\n"


@pytest.mark.parametrize("command", ["list", "show"])
def test_they_explain_themselves(run, command):
    result = run("recipes", command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert command in run("recipes", "--help").stdout


@pytest.mark.parametrize("arguments", [["list"], ["show", "best"], ["show", "best", "--json"]])
def test_showing_does_not_import_torch(arguments):
    code = (
        f"import sys; sys.argv = ['intraq-deploy', 'recipes', *{arguments}]\n"
        "from intraq_deploy.cli.entry import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "False"


# --- used ----------------------------------------------------------------------------------------------


def test_a_run_does_what_the_file_says(own):
    report = report_of(own / "run")
    assert report["status"] == "passed"
    assert report["preset"] == str(own / "mine.toml")
    assert (report["images"]["count"], report["images"]["iterations"], report["steps"]) == (8, 2, 3)
    assert report["parity"]["onnxruntime"]["integers_mismatched"] == 0
    kept = json.loads((own / "run" / "config.json").read_text())["options"]["recipe"]
    assert kept == {"name": str(own / "mine.toml"), "values": tomllib.loads(MINE)}


def test_a_run_needs_its_file_no_more(run, own):
    def report():
        """All but the times, which are measured again."""
        found = report_of(own / "run")
        found["comparison"] = [row | {"milliseconds": None} for row in found["comparison"]]
        return found | {"warnings": [each for each in found["warnings"] if each["kind"] != "slower-than-float"]}

    before = report()
    assert not (own / "mine.toml").exists()
    for command in (["validate"], ["export"], ["sensitivity", "--bits", "4"]):
        result = run(command[0], own / "run", *command[1:])
        assert result.exit_code == 0, result.output
    assert report() == before


def test_images_made_first_are_continued(run, checkpoint, tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    rest = [checkpoint, *NETWORK, "--recipe", tmp_path / "mine.toml", "--out", tmp_path / "run"]
    result = run("synthesize", *rest)
    assert result.exit_code == 0, result.output
    assert report_of(tmp_path / "run")["preset"] == str(tmp_path / "mine.toml")
    assert "8 images in" in result.stdout
    result = run("quantize", *rest, "--steps", "1")
    assert result.exit_code == 0, result.output
    assert "synthesis: kept from before" in result.stderr
    assert report_of(tmp_path / "run")["steps"] == 1
    (tmp_path / "mine.toml").write_text(MINE.replace("iterations = 2", "iterations = 1"))
    result = run("synthesize", *rest, "--overwrite")
    assert "synthesis: done" in result.stderr


@pytest.mark.parametrize("command", ["quantize", "synthesize"])
def test_a_file_that_is_no_recipe(run, checkpoint, tmp_path, command):
    (tmp_path / "mine.toml").write_text(MINE.replace("iterations", "iteration"))
    result = run(command, checkpoint, *NETWORK, "--recipe", tmp_path / "mine.toml", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "mine.toml has the unknown key synthesis.iteration: did you mean synthesis.iterations?" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()
    result = run(command, checkpoint, *NETWORK, "--recipe", tmp_path / "mine.toml", "--preset", "best")
    assert result.exit_code == 2
    assert "exclude each other: give one of them" in result.stderr


def test_own_images_are_nobodys_classes(run, checkpoint, tmp_path):
    """Nothing is said of classes without images where no image was made for a class."""
    import numpy as np

    np.savez(tmp_path / "photos.npz", images=np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    command = ["quantize", checkpoint, *NETWORK, "--images", "4", "--steps", "0", "--out", tmp_path / "run"]
    result = run(*command, "--calibration", tmp_path / "photos.npz")
    assert result.exit_code == 0, result.output
    assert "classes have none" not in result.output


# --- ranges only ---------------------------------------------------------------------------------------


def test_ranges_only(run, checkpoint, tmp_path):
    command = ["quantize", checkpoint, *NETWORK, *TINY[:4], "--bits", "8", "--out", tmp_path / "run"]
    result = run(*command, "--method", "ptq")
    assert result.exit_code == 0, result.output
    report = report_of(tmp_path / "run")
    assert report["status"] == "passed"
    assert report["steps"] == 0
    assert report["bits"] == {"weights": 8, "activations": 8, "depthwise": None}
    assert report["parity"]["onnxruntime"]["integers_mismatched"] == 0
    assert "step " not in result.stderr
    result = run(*command, "--method", "ptq", "--steps", "0")
    assert result.exit_code == 0, result.output
    assert "fine-tuning: kept from before" in result.stderr
    assert run("validate", tmp_path / "run").exit_code == 0
    result = run(*command, "--steps", "2", "--overwrite")
    assert "fine-tuning: done" in result.stderr
    assert report_of(tmp_path / "run")["steps"] == 2


def test_ranges_only_with_a_recipe(run, checkpoint, tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    command = ["quantize", checkpoint, *NETWORK, "--recipe", tmp_path / "mine.toml", "--method", "ptq"]
    result = run(*command, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert report_of(tmp_path / "run")["steps"] == 0


def test_what_prepares_the_network_is_part_of_what_follows(run, checkpoint, tmp_path):
    """The images stay; a table of layers or a student of differently prepared weights does not."""
    rest = ["--recipe", tmp_path / "mine.toml", "--average-bits", "5", "--out", tmp_path / "run", "--overwrite"]
    for equalize in ("false", "true"):
        (tmp_path / "mine.toml").write_text(f"{MINE}\n[quantization]\nequalize = {equalize}\n")
        result = run("quantize", checkpoint, *NETWORK, *rest)
        assert result.exit_code == 0, result.output
        assert report_of(tmp_path / "run")["status"] == "passed"
    assert "synthesis: kept from before" in result.stderr
    assert "sensitivity: done" in result.stderr
    assert "fine-tuning: done" in result.stderr
