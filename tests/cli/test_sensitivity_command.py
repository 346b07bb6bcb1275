"""What each layer's bits cost, as a user meets it."""

import csv
import json
import shutil

import pytest
import torch
from support import NETWORK, SmallResNet

BITS = ["--bits", "2,4,8"]


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """A finished run that was measured, and what the command printed."""
    from typer.testing import CliRunner

    from intraq_deploy.cli.main import app

    directory = shutil.copytree(finished, tmp_path_factory.mktemp("measured") / "run")
    result = CliRunner().invoke(app, ["sensitivity", str(directory), *BITS])
    assert result.exit_code == 0, result.output
    return directory, result


def test_every_layer_is_in_the_table_and_the_files(measured):
    directory, result = measured
    table = json.loads((directory / "sensitivity" / "sensitivity.json").read_text())
    layers = {layer["name"]: layer for layer in table["layers"]}
    modules = dict(SmallResNet().named_modules())
    assert layers.keys() == {name for name, m in modules.items() if type(m).__name__ in ("Conv2d", "Linear")}
    for name, layer in layers.items():
        assert layer["weights"] == modules[name].weight.numel()
        assert layer["loss"].keys() == {"2", "4", "8"}
        assert layer["loss"]["8"] == table["reference"]
        assert layer["loss"]["2"]["kl"] > layer["loss"]["8"]["kl"] >= 0
        assert name in result.stdout
    rows = list(csv.DictReader((directory / "sensitivity" / "sensitivity.csv").open()))
    assert len(rows) == 3 * len(layers)
    first = layers[rows[0]["layer"]]["loss"][rows[0]["bits"]]
    assert float(rows[0]["kl"]) == pytest.approx(first["kl"], rel=1e-5)
    assert float(rows[0]["kl_increase"]) == pytest.approx(first["kl"] - table["reference"]["kl"], rel=1e-4)
    assert (directory / "sensitivity" / "sensitivity.png").read_bytes()[:4] == b"\x89PNG"
    assert "Everything at 8 bits: KL" in result.stdout


def test_it_is_measured_once(run, measured, tmp_path):
    directory = shutil.copytree(measured[0], tmp_path / "run")
    result = run("sensitivity", directory, *BITS, "--json")
    assert "sensitivity: kept from before" in result.stderr
    assert json.loads(result.stdout) == json.loads((directory / "sensitivity" / "sensitivity.json").read_text())
    assert "sensitivity: done" in run("sensitivity", directory, "--bits", "3,8").stderr


def test_it_continues_after_the_last_finished_width(run, measured, tmp_path):
    """What an interruption leaves: an unfinished stage with a part in it. That part is not measured again."""
    directory = shutil.copytree(measured[0], tmp_path / "run")
    folder = directory / "sensitivity"
    whole = (folder / "sensitivity.json").read_text()
    (folder / "stage.json").rename(folder / "unfinished.json")
    part = json.loads((folder / "weights-2-bits.json").read_text())
    part["conv1"]["kl"] = 123.0
    (folder / "weights-2-bits.json").write_text(json.dumps(part))
    (folder / "weights-4-bits.json").unlink()
    assert run("sensitivity", directory, *BITS).exit_code == 0
    layers = json.loads((folder / "sensitivity.json").read_text())["layers"]
    assert layers[0]["loss"]["2"]["kl"] == 123.0
    assert layers[0]["loss"]["4"] == json.loads(whole)["layers"][0]["loss"]["4"]


def test_images_are_enough(run, checkpoint, tmp_path):
    budget = ["--images", "8", "--iterations", "3", "--out", tmp_path / "run"]
    assert run("synthesize", checkpoint, *NETWORK, *budget).exit_code == 0
    result = run("sensitivity", tmp_path / "run", "--bits", "4")
    assert result.exit_code == 0, result.output
    assert "layer3.conv2" in result.stdout


def test_a_damaged_table_is_measured_again(run, measured, tmp_path):
    directory = shutil.copytree(measured[0], tmp_path / "run")
    (directory / "sensitivity" / "sensitivity.json").write_text("[]")
    result = run("sensitivity", directory, *BITS)
    assert result.exit_code == 0, result.output
    assert "sensitivity is made again" in result.stderr
    for file in ("sensitivity.json", "sensitivity.csv"):
        assert (directory / "sensitivity" / file).read_text() == (measured[0] / "sensitivity" / file).read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "1,4"], ("--bits has 1", "2 to 8")),
        (["--bits", "4,9"], ("--bits has 9", "2 to 8")),
        (["--bits", "4,4"], ("--bits is 4,4", "once")),
        (["--bits", "four"], ("--bits is 'four'", "as in 4,8")),
        (["--bits", ""], ("--bits is ''", "as in 4,8")),
        (["--device", "tpu"], ("--device is 'tpu'", "'auto', 'cpu' or 'cuda'")),
    ],
)
def test_bad_options(run, finished, options, words):
    result = run("sensitivity", finished, *options)
    assert result.exit_code == 2, result.output
    assert all(word in " ".join(result.stderr.split()) for word in words), result.stderr
    assert not (finished / "sensitivity").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_here_is_refused(run, finished):
    result = run("sensitivity", finished, *BITS, "--device", "cuda")
    assert result.exit_code == 2, result.output
    assert "--device is cuda, but torch finds no CUDA device" in result.stderr
    assert not (finished / "sensitivity").exists()
