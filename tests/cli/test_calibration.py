"""A network without batch norm, quantized with a person's own images: nothing of it is called synthetic, and the
integers are as equal as ever."""

import json
import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from support import NETWORK
from torch import nn
from typer.testing import CliRunner

from intraq_deploy import calibration_images, export, freeze, load_model, quantize, validate
from intraq_deploy.cli.main import app

NAMED = ("calibration", "fine-tuning", "program", "targets/onnxruntime", "validation")
"""The stages of a run that are said to be kept."""


class Plain(nn.Sequential):
    """Convolutions with biases and no batch norm: 5 classes for [3, 32, 32]."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(), nn.Linear(1024, 24), nn.ReLU(), nn.Linear(24, 5),
        )  # fmt: skip


PLAIN = ["--arch", f"{__file__}:Plain", *NETWORK[2:]]
BUDGET = ["--images", "8", "--steps", "2"]


def photos(folder, count, seed=0, side=(48, 40)):
    """Images with large and small structure, in two folders that mean nothing."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        place = folder / ("odd" if index % 2 else "even")
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize(side, Image.Resampling.BICUBIC).save(place / f"{index:03}.png")
    return folder


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A state_dict of the plain network."""
    file = tmp_path_factory.mktemp("plain") / "plain.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(Plain().state_dict(), file)
    return file


@pytest.fixture(scope="session")
def calibrated(plain, tmp_path_factory):
    """A finished run directory, and the folder of images beside it; tests copy both before they change them."""
    home = tmp_path_factory.mktemp("calibrated")
    photos(home / "photos", 12)
    command = ["quantize", plain, *PLAIN, *BUDGET, "--calibration", home / "photos", "--out", home / "run"]
    result = CliRunner().invoke(app, [str(argument) for argument in command])
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert f"8 of 12 images in {home}/photos stand in for synthetic ones" in said
    assert "of its 5 classes" in said
    assert "synthesis" not in result.output
    return home


@pytest.fixture
def home(calibrated, tmp_path):
    return shutil.copytree(calibrated, tmp_path / "home")


@pytest.fixture
def again(run, plain, home):
    """The command that made the run, with further options."""
    command = ["quantize", plain, *PLAIN, *BUDGET, "--calibration", home / "photos", "--out", home / "run"]
    return lambda *options: run(*command, "--overwrite", *options)


def report_of(home):
    return json.loads((home / "run" / "run.json").read_text())


def test_the_run_says_whose_images_it_saw_and_passes_the_gate(calibrated):
    report = report_of(calibrated)
    assert report["status"] == "passed"
    assert report["images"].keys() == {"calibration", "count", "found", "confidence", "classes"}
    assert report["images"]["calibration"] == str(calibrated / "photos")
    assert (report["images"]["count"], report["images"]["found"]) == (8, 12)
    assert 1 <= report["images"]["classes"] <= 5
    assert 0.2 <= report["images"]["confidence"] <= 1
    parity = report["parity"]["onnxruntime"]
    assert parity["integers_mismatched"] == 0
    assert parity["integers_compared"] > 20_000
    assert parity["toleranced"] == []
    assert parity["integer_kernels"] == {"QLinearConv": 2, "QGemm": 2}
    assert parity["images"] == 8
    assert report["seconds"].keys() == {*NAMED, "fitting", "baselines"}
    assert not (calibrated / "run" / "synthesis").exists()
    assert (calibrated / "run" / "calibration" / "sheet.png").read_bytes()[:4] == b"\x89PNG"


def test_the_same_command_again_does_nothing_again(again, calibrated, home):
    result = again("--calibration", calibrated / "photos")
    assert result.exit_code == 0, result.output
    for stage in NAMED:
        assert f"{stage}: kept from before" in result.stderr
    assert report_of(home) == report_of(calibrated)


def test_the_same_images_elsewhere_are_the_same_images(again, calibrated, home):
    result = again()
    assert result.exit_code == 0, result.output
    for stage in NAMED[:-1]:
        assert f"{stage}: kept from before" in result.stderr
    assert report_of(home)["images"] == report_of(calibrated)["images"] | {"calibration": str(home / "photos")}


@pytest.mark.parametrize("change", ["pixels", "another", "seed", "count"])
def test_other_images_are_noticed(again, home, change):
    before = report_of(home)
    options = {"seed": ["--seed", "1"], "count": ["--images", "9"]}.get(change, [])
    if change == "pixels":
        for file in sorted((home / "photos").rglob("*.png")):
            Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)
    if change == "another":
        Image.new("RGB", (32, 32)).save(home / "photos" / "another.png")
    result = again(*options)
    assert result.exit_code == 0, result.output
    assert "calibration: done" in result.stderr
    assert "fine-tuning: done" in result.stderr
    assert report_of(home)["artifacts"] != before["artifacts"]


def test_other_bits_keep_the_images(again):
    result = again("--bits", "8")
    assert "calibration: kept from before" in result.stderr
    assert "fine-tuning: done" in result.stderr


@pytest.mark.parametrize("damage", ["gone", "overwritten"])
def test_damaged_images_are_taken_again(again, home, damage):
    file = home / "run" / "calibration" / "images.safetensors"
    if damage == "gone":
        file.unlink()
    else:
        file.write_text("[]")
    result = again()
    assert result.exit_code == 0, result.output
    assert "calibration is made again" in result.stderr
    assert report_of(home)["parity"]["onnxruntime"]["integers_mismatched"] == 0


def test_a_finished_run_needs_the_folder_no_more(run, home, tmp_path):
    shutil.rmtree(home / "photos")
    before = report_of(home)
    shutil.rmtree(home / "run" / "targets")
    assert run("export", home / "run").exit_code == 0
    rng = np.random.default_rng(0)
    images = {"images": rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8), "labels": rng.integers(0, 5, 10)}
    np.savez(tmp_path / "eval.npz", **images)
    result = run("validate", home / "run", "--eval", tmp_path / "eval.npz")
    assert result.exit_code == 0, result.output
    report = report_of(home)
    assert report["images"] == before["images"]
    assert report["artifacts"] == before["artifacts"]
    assert report["accuracy"]["images"] == 10
    for _ in range(2):
        result = run("sensitivity", home / "run", "--bits", "4")
        assert result.exit_code == 0, result.output
    assert "sensitivity: kept from before" in result.stderr


def test_a_network_with_batch_norms_takes_them_too(run, checkpoint, home):
    command = ["quantize", checkpoint, *NETWORK, *BUDGET, "--calibration", home / "photos"]
    result = run(*command, "--out", home / "other", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["images"]["count"] == 8
    assert report["parity"]["onnxruntime"]["integers_mismatched"] == 0


def test_arrays_and_fewer_images_than_asked_for(run, plain, tmp_path):
    np.savez(tmp_path / "photos.npz", images=np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8))
    command = ["quantize", plain, *PLAIN, *BUDGET, "--calibration", tmp_path / "photos.npz"]
    result = run(*command, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "5 of 5 images" in result.stdout
    assert "--images is 8, and" in result.stderr
    assert "photos.npz has 5: all of them are taken" in result.stderr
    other = run(*command, "--out", tmp_path / "run", "--seed", "1", "--overwrite")
    assert "calibration: kept from before" in other.stderr, "all images were taken, whatever draws"
    assert "fine-tuning: done" in other.stderr, "but the steps draw from them"


# --- refusals ------------------------------------------------------------------------------------------


def assert_refused(result, code, *words):
    message = " ".join(result.stderr.split())
    assert result.exit_code == code, result.output
    for word in words:
        assert word in message, message
    assert "Traceback" not in result.output
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["quantize", "synthesize"])
def test_without_images_the_way_out_is_named(run, plain, tmp_path, command):
    result = run(command, plain, *PLAIN, "--out", tmp_path / "run")
    assert_refused(result, 1, "no batch norm with stored statistics", "vgg11_bn", "quantize with --calibration DIR")
    assert not (tmp_path / "run").exists()


def test_inspection_says_that_own_images_will_do(run, plain):
    inspection = json.loads(run("inspect", plain, *PLAIN, "--json").stdout)
    (problem,) = inspection["problems"]
    assert problem.startswith("Cannot be synthesized from: ")
    assert "--calibration DIR" in problem
    assert inspection["batch_norms"] == 0
    assert all(row["integer"] for row in inspection["rows"] if row["operator"] in ("Convolution", "Linear"))
    shown = run("inspect", plain, *PLAIN).stdout
    assert "Cannot be synthesized from: " in shown
    assert "Cannot be quantized" not in shown


def test_images_that_cannot_be_used(run, plain, tmp_path):
    command = ["quantize", plain, *PLAIN, *BUDGET, "--out", tmp_path / "run", "--calibration"]
    assert_refused(run(*command, tmp_path / "absent"), 1, "absent does not exist; give a folder of images")
    (tmp_path / "empty").mkdir()
    assert_refused(run(*command, tmp_path / "empty"), 1, "empty has 0 images", "at least 2 are needed")
    (photos(tmp_path / "photos", 3) / "odd" / "text.jpg").write_text("no image")
    assert_refused(run(*command, tmp_path / "photos"), 1, "photos/odd/text.jpg cannot be read", "remove or replace it")
    np.savez(tmp_path / "grey.npz", images=np.zeros((4, 32, 32), np.uint8))
    assert_refused(run(*command, tmp_path / "grey.npz"), 1, "grey.npz have 1 channels, and the network reads 3")
    assert not (tmp_path / "run").exists()


def test_iterations_make_no_images_of_ones_own(again):
    assert_refused(again("--iterations", "3"), 2, "--iterations is 3", "--calibration", "leave one of them out")


@pytest.mark.parametrize("relation", ["same", "linked", "inside", "around"])
def test_what_calibrates_must_not_measure(again, run, home, relation):
    (home / "link").symlink_to(home / "photos")
    place = {"same": "photos", "linked": "link", "inside": "photos/odd", "around": "."}[relation]
    words = "share images", "what calibrates must not measure"
    assert_refused(again("--eval", home / place), 2, *words)
    command = ["validate", home / "run", "--eval"]
    shutil.move(home / "run" / "config.json", home / "config.json")
    config = json.loads((home / "config.json").read_text())
    config["options"]["calibration"] = "photos"
    config["folder"] = str(home)
    (home / "run" / "config.json").write_text(json.dumps(config))
    assert_refused(run(*command, home / place), 2, *words)


# --- from Python ---------------------------------------------------------------------------------------


def test_from_python(plain, calibrated, tmp_path):
    model = load_model(plain, arch=f"{__file__}:Plain", input_size=32, mean=(0.5,), std=(0.25,))
    images = calibration_images(model, calibrated / "photos", count=9, seed=3)
    logits = model.module(images.images)
    assert images.images.shape == (9, 3, 32, 32)
    assert torch.equal(images.labels, logits.argmax(1))
    torch.testing.assert_close(images.targets, logits.softmax(1).amax(1))
    student = quantize(model, images, steps=2)
    program = freeze(student)
    result = validate(export(program, tmp_path / "shipped", model=model), program, images)
    assert result.passes
    assert result.parity.mismatched == 0
    assert result.parity.compared > 20_000


@pytest.mark.slow
def test_alexnet(run, tmp_path):
    """Whole, with random weights: its fully connected layers alone take most of a minute to calibrate."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(torchvision.models.alexnet().state_dict(), tmp_path / "alexnet.pth")
    photos(tmp_path / "photos", 8, side=(256, 240))
    command = ["quantize", tmp_path / "alexnet.pth", "--steps", "0", "--calibration", tmp_path / "photos"]
    result = run(*command, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    report = report_of(tmp_path)
    assert report["model"]["architecture"] == "torchvision:alexnet"
    parity = report["parity"]["onnxruntime"]
    assert parity["integers_mismatched"] == 0
    assert parity["integer_kernels"] == {"QLinearConv": 5, "QGemm": 3}
    assert parity["float_kernels"] == {}
