"""`classify`: the answers are those of the shipped file, and of a bundle's run.py, for photos as people have them."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support import SMALL_SHAPE, model_of, small_network

from intraq_deploy import api
from intraq_deploy.data.labelled import normalise
from intraq_deploy.data.resizing import to_network_size
from intraq_deploy.models.builtin.networks import CIFAR10_CLASSES
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.pipeline.finished import kept_run
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.progress import Silent
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.program import Normalization
from intraq_deploy.targets.artifact import read_manifest
from intraq_deploy.targets.onnxruntime.opening import open_shipped

PREPROCESSING = Preprocessing((32, 32), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
"""The preprocessing of the finished run."""


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of photos of several sizes and formats, and one that is hidden."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (folder / "more").mkdir()
    for name, size in (("a.png", (40, 61)), ("b.JPG", (90, 33)), ("more/c.bmp", (32, 32)), (".d.png", (32, 32))):
        image = Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(folder / name, format="jpeg" if name == "b.JPG" else None)
    return folder


def shares(path, photo, preprocessing=PREPROCESSING, pixels=False):
    """The probabilities that a shipped file gives, as the package itself prepares a photo: float32 [classes]."""
    image = torch.from_numpy(to_network_size(Image.open(photo).convert("RGB"), preprocessing)).permute(2, 0, 1)[None]
    session = open_shipped(read_manifest(path.parent))
    return session.run(image.contiguous() if pixels else normalise(image, preprocessing)).softmax(1)[0]


def test_the_probabilities_are_those_of_the_file(run, finished, photos):
    result = run("classify", finished, photos, "--json", "--top", "10")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    path = finished / "targets" / "onnxruntime" / "model.onnx"
    assert (found["runtime"], found["model"]) == ("onnxruntime", str(path))
    assert [image["image"] for image in found["images"]] == [str(photos / n) for n in ("a.png", "b.JPG", "more/c.bmp")]
    for image in found["images"]:
        expected = shares(path, image["image"])
        assert sorted(each["class"] for each in image["top"]) == list(range(10))
        given = [each["share"] for each in image["top"]]
        assert given == sorted(given, reverse=True)
        assert given == pytest.approx([float(expected[each["class"]]) for each in image["top"]], abs=2e-6)
        assert [each["name"] for each in image["top"]] == [str(each["class"]) for each in image["top"]]
    assert run("classify", finished, photos, "--json", "--target", "onnxruntime", "--top", "10").stdout == result.stdout


def test_the_answers_are_those_of_a_bundle(run, finished, photos, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    assert run("bundle", directory, "--target", "x86-cpu").exit_code == 0
    bundle = directory / "bundles" / "x86-cpu"
    files = [photos / "a.png", photos / "b.JPG"]
    command = [sys.executable, bundle / "run.py", "classify", *files, "--json"]
    there = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for source in (directory, bundle, directory / "targets" / "onnxruntime" / "model.onnx"):
        assert json.loads(run("classify", source, *files, "--json").stdout)["images"] == there["images"]
    model = bundle / there["model"]
    model.write_bytes(model.read_bytes() + b"\0")
    result = run("classify", bundle, *files)
    assert result.exit_code == 1
    assert "is not the file that manifest.json describes: unpack the bundle again" in result.stderr


@pytest.mark.parametrize("pixels", [False, True])
def test_what_python_exported_has_names(run, photos, frozen, tmp_path, pixels):
    """And is fed as its model is."""
    own = replace(PREPROCESSING, resize=36, interpolation="bicubic", squash=True)
    model = model_of(small_network("resnet"), SMALL_SHAPE, 10)
    model = replace(model, class_names=CIFAR10_CLASSES, preprocessing=own)
    program = freeze(frozen("resnet")[0], Normalization.of(own.mean, own.std) if pixels else None)
    artifact = api.export(program, tmp_path / "shipped", model=model)
    result = run("classify", tmp_path / "shipped", photos / "a.png", "--top", "2")
    expected = shares(artifact.path, photos / "a.png", own, pixels)
    best = expected.topk(2)
    lines = [
        f"  {100 * share:6.2f} %  {CIFAR10_CLASSES[index]}"
        for share, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    assert result.stdout.splitlines() == [str(photos / "a.png"), *lines]


def test_a_file_that_is_no_image_costs_only_itself(run, finished, photos, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    result = run("classify", finished, tmp_path / "text.jpg", tmp_path / "absent.jpg", photos / "a.png")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == str(photos / "a.png")
    assert len(result.stdout.splitlines()) == 6
    errors = result.stderr.splitlines()
    assert len(errors) == 2
    assert f"the image {tmp_path / 'text.jpg'} cannot be read" in errors[0]
    assert "No such file or directory" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("absent", "a.jpg"), 1, "absent does not exist: give a run directory, an exported .onnx file or a bundle."),
        (("photos", "a.jpg"), 1, "is no run directory (it has no config.json): run quantize first."),
        (("run", "empty"), 1, "has no images (known are .jpg"),
        (("run", "a.jpg", "--top", "0"), 2, "--top"),
        (("run", "a.jpg", "--target", "onnxruntme"), 2, "did you mean onnxruntime?"),
        (
            ("run", "a.jpg", "--target", "tensorrt-int8"),
            1,
            "that ONNX Runtime runs (its files are for onnxruntime): give --target onnxruntime.",
        ),
        (("model.onnx", "a.jpg", "--target", "onnxruntime"), 2, "--target is 'onnxruntime', and "),
        (("foreign.onnx", "a.jpg"), 1, "does not say how pixels become its input (it has no 'mean')"),
        (("text.onnx", "a.jpg"), 1, "ONNX Runtime"),
    ],
    ids=str,
)
def test_what_cannot_be_classified_is_one_sentence(run, finished, photos, frozen, tmp_path, arguments, code, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.onnx").write_text("no model")
    foreign = api.export(frozen("resnet")[1], tmp_path / "foreign").path
    places = {"run": finished, "photos": photos, "model.onnx": finished / "targets" / "onnxruntime" / "model.onnx"}
    places |= {name: tmp_path / name for name in ("absent", "empty", "text.onnx")} | {"foreign.onnx": foreign}
    result = run("classify", *(places.get(each, each) for each in arguments))
    assert result.exit_code == code
    assert words in result.stderr.replace("\n", " ")
    assert result.stdout == ""


def test_a_run_without_a_file_for_onnx_runtime(run, finished, photos, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    report = json.loads((directory / "run.json").read_text())
    report["artifacts"] = {}
    (directory / "run.json").write_text(json.dumps(report))
    result = run("classify", directory, photos / "a.png")
    assert result.exit_code == 1
    assert f"run export {directory} --target onnxruntime first" in result.stderr


def test_no_torch_is_imported(finished, photos):
    code = (
        "import sys; from intraq_deploy.pipeline.classify import classify; from pathlib import Path\n"
        f"found = classify(Path({str(finished)!r}), [Path({str(photos)!r})])\n"
        "assert len(found.images) == 3\n"
        "print([name for name in ('torch', 'onnx') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_python_measures_what_the_command_does(run, finished, labelled, tmp_path):
    """Every form of the network, with the numbers of `validate --eval`."""
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    result = run("validate", directory, "--eval", labelled, "--json")
    measured = json.loads(result.stdout)["accuracy"]
    kept = kept_run(Opening(directory), Silent())
    forms = {"float": kept.run.model, "fake_quant": kept.student, "program": kept.program, **kept.artifacts(())}
    for name, network in forms.items():
        found = api.evaluate(network, labelled, model=kept.run.model)
        assert found.top1 == measured[name], name


def test_python_bundles_what_the_command_does(finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    report = api.bundle(str(directory), target="x86-cpu", out=tmp_path / "packed")
    assert report.shortfall is None
    assert repr(report).startswith(f"BundleReport({tmp_path / 'packed.tar.gz'}: ")
    assert (tmp_path / "packed" / "run.py").is_file()
