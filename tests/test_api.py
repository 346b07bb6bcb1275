"""The Python face: what no caller can have meant is one sentence, before any work."""

import base64
import io
import pydoc
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from support import SMALL_SHAPE, model_of, random_images, small_network
from torch.utils.data import DataLoader, TensorDataset

import intraq_deploy
from intraq_deploy import api
from intraq_deploy.data.loading import load_labelled
from intraq_deploy.errors import ArchitectureError, CheckpointError, DataError, UsageError
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.program import Normalization
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training import student

IMAGES = SyntheticSet(random_images(8), torch.arange(8), torch.ones(8))


@pytest.fixture(scope="module")
def model():
    return model_of(small_network("resnet"), SMALL_SHAPE, 10)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (3, "The recipe is 3, of type int: give the name of a built-in one, or the path of your own."),
        (None, "The recipe is None, of type NoneType: give"),
        ("mine.toml", "The recipe mine.toml cannot be read"),
        ("recipes/mine", "The recipe recipes/mine cannot be read"),
        ("bset", "The recipe 'bset' is unknown: did you mean best?"),
        (Path("absent.toml"), "The recipe absent.toml cannot be read"),
    ],
    ids=str,
)
def test_recipes_that_are_none(recipe, words):
    with pytest.raises(UsageError) as refusal:
        api.recipe_file(recipe)
    assert str(refusal.value).startswith(words) or str(refusal.value).endswith(words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "gpu"}, "--device is 'gpu': give auto, cpu or cuda."),
        ({"steps": "5"}, "--steps is '5': give a whole number."),
        ({"targets": "onnxruntme"}, "The target 'onnxruntme' is unknown: did you mean onnxruntime?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_that_cannot_be(model, options, words):
    with pytest.raises(UsageError) as refusal:
        api.quantize(model, IMAGES, **options)
    assert str(refusal.value) == words


def test_images_that_cannot_be(model):
    with pytest.raises(UsageError, match="The images are of type Tensor: give what synthesize makes, a SyntheticSet"):
        api.quantize(model, IMAGES.images)
    broken = SyntheticSet(IMAGES.images.clone(), IMAGES.labels, IMAGES.targets)
    broken.images[0, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="The images have values that are not finite: make them again"):
        api.quantize(model, broken)
    with pytest.raises(UsageError, match="--images is 2.5: give a whole number"):
        api.synthesize(model, images=2.5)


def test_a_target_may_stand_alone(model):
    one, several = (
        api.quantize(model, IMAGES, steps=0, targets=targets) for targets in ("onnxruntime-avx2", ("onnxruntime-avx2",))
    )
    codes = [student.layer("fc").quantizer.codes(student.layer("fc").weight) for student in (one, several)]
    assert torch.equal(*codes)


@pytest.mark.parametrize(("reconstruct", "changed"), [(False, False), (True, True)])
def test_no_steps_reconstruct_only_if_asked_to(model, monkeypatch, reconstruct, changed):
    """Though the recipe does so by itself."""
    called = []
    monkeypatch.setattr(student, "reconstruct", lambda *arguments: called.append(arguments))
    api.quantize(model, IMAGES, recipe="best", steps=0, reconstruct=reconstruct)
    assert bool(called) == changed


def test_targets_may_be_devices_and_files_of_ones_own(model, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nopset = 17\nruntime = "tensorrt"\npasses = ["float-clips", "float-biases"]')
    program = freeze(api.quantize(model, IMAGES, steps=0, targets=("jetson-orin-nano", file)))
    for target in (file, "jetson-xavier"):
        artifact = api.export(program, tmp_path / "shipped", target=target)
        assert (artifact.target, artifact.runtime) in {("mine", "tensorrt"), ("tensorrt8-int8", "tensorrt")}
    with pytest.raises(UsageError, match="jetson-orin-nano has several targets: give one of tensorrt-int8, "):
        api.export(program, tmp_path / "shipped", target="jetson-orin-nano")


# --- what people have in memory, and what they look at -------------------------------------------------


def test_a_network_in_memory_is_copied(model):
    own = small_network("resnet").double().train()
    loaded = api.load_model(own, input_size=32, mean=[0.5] * 3, std=[0.25] * 3)
    assert own.training
    assert next(own.parameters()).dtype == torch.float64
    assert (loaded.classes, loaded.input_shape, loaded.source.kind) == (10, (3, 32, 32), "module")
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    images = random_images(2)
    torch.testing.assert_close(loaded.module(images), model.module(images))
    assert "SmallResNet" in loaded.architecture


def test_a_state_dict_needs_its_architecture():
    tensors = torchvision.models.mobilenet_v3_small().state_dict()
    assert api.load_model(tensors).architecture == "torchvision:mobilenet_v3_small"
    assert api.load_model(dict(tensors), arch="torchvision:mobilenet_v3_small").classes == 1000
    with pytest.raises(ArchitectureError, match="the state_dict has the tensors of no known architecture"):
        api.load_model(small_network("resnet").state_dict())
    with pytest.raises(CheckpointError, match="the state_dict is empty"):
        api.load_model({})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: api.load_model(3), "The model is of type int: give a path, a name such as"),
        (lambda model: api.load_model(model.module, arch="timm:resnet18"), "arch is 'timm:resnet18', and the network"),
        (lambda model: api.load_model(model.module, weights="ema"), "weights is 'ema', and the network is in memory"),
        (lambda model: api.synthesize(model.module), "The model is of type SmallResNet: give what load_model makes"),
        (lambda model: api.quantize("model.pth", IMAGES), "The model is of type str: give what load_model makes"),
        (lambda model: api.calibration_images(None, "photos"), "The model is of type NoneType: give what"),
        (lambda model: api.export(IMAGES, "shipped"), "The program is of type SyntheticSet: give what freeze makes"),
    ],
)
def test_values_of_wrong_types_are_one_sentence(model, call, words):
    with pytest.raises(UsageError) as refusal:
        call(model)
    assert str(refusal.value).startswith(words)


def test_values_are_short_to_look_at(model, tmp_path):
    assert repr(IMAGES) == "SyntheticSet(8 images of 3x32x32, 8 classes)"
    shown = IMAGES._repr_html_()
    data = base64.b64decode(shown.partition("base64,")[2].partition('"')[0])
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.std() > 20, "contrast"
    program = freeze(api.quantize(model, IMAGES, steps=0))
    assert repr(program).startswith("Program(9 of 9 layers with weights on integers, ")
    result = api.validate(api.export(program, tmp_path), program, IMAGES)
    assert re.fullmatch(r"Validation\(passes: 0 of [\d,]+ integers differ, top-1 agreement 100.00 %\)", repr(result))
    assert "<td>passes</td>" in result._repr_html_()


def test_a_loader_calibrates_as_a_tensor_does(model):
    tensor, labels = random_images(20), torch.arange(20)
    loader = DataLoader(TensorDataset(tensor, labels), batch_size=6)
    one, other = (api.calibration_images(model, images, count=8) for images in (tensor, loader))
    assert torch.equal(one.images, tensor[:8])
    for part in ("images", "labels", "targets"):
        assert torch.equal(getattr(one, part), getattr(other, part))
    assert torch.equal(one.labels, model.module(tensor[:8]).argmax(1))


# --- accuracy, files and bundles -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def forms(model, tmp_path_factory):
    """A model, its student, program and artifact; and the last two for images that are uint8."""
    student = api.quantize(model, IMAGES, steps=0)
    preprocessing = model.preprocessing
    programs = [freeze(student), freeze(student, Normalization.of(preprocessing.mean, preprocessing.std))]
    shipped = tmp_path_factory.mktemp("shipped")
    artifacts = [api.export(program, shipped / str(index), model=model) for index, program in enumerate(programs)]
    return [model, student, *programs, *artifacts]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    file = tmp_path_factory.mktemp("labelled") / "images.npz"
    draw = np.random.default_rng(0)
    np.savez(file, images=draw.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8), labels=draw.integers(0, 10, 30))
    return file


def test_files_and_loaders_measure_the_same(model, forms, labelled):
    ((images, labels),) = load_labelled(labelled, model).batches()
    loader = DataLoader(TensorDataset(images, labels), batch_size=30)
    for network in forms:
        found = intraq_deploy.evaluate(network, labelled, model=model)
        assert found == intraq_deploy.evaluate(network, loader, model=model)
        assert found.images == 30
    logits = model.module(images)
    right = int((logits.argmax(1) == labels).sum())
    assert intraq_deploy.evaluate(model, str(labelled)).top1 == 100 * right / 30
    # The program for pixels is another form of the same integers; a student and its program agree.
    tops = {intraq_deploy.evaluate(network, labelled, model=model).top1 for network in forms[1:]}
    assert len(tops) == 1


def test_what_cannot_be_measured_is_one_sentence(model, forms, labelled):
    student, artifact_of_pixels = forms[1], forms[-1]
    for call, error, words in (
        (lambda: api.evaluate(student, labelled), UsageError, "are files, and only a model says how they are prepared"),
        (lambda: api.evaluate(artifact_of_pixels, []), UsageError, "takes pixels, and only a model says"),
        (lambda: api.evaluate(IMAGES, labelled), UsageError, "The network is of type SyntheticSet: give what load_mod"),
        (lambda: api.evaluate(student, []), DataError, "The images are none: give at least one, with its label."),
        (lambda: api.evaluate(student, IMAGES.images), DataError, "The images come without labels"),
        (
            lambda: api.evaluate(student, labelled, model=model_of(model.module, (3, 64, 64), 10)),
            UsageError,
            "The model reads images of 3x64x64, and the network of 3x32x32",
        ),
        (lambda: api.validate(student, forms[2], IMAGES), UsageError, "The artifact is of type FakeQuantNetwork: give"),
    ):
        with pytest.raises(error) as refusal:
            call()
        assert words in str(refusal.value)


def test_any_file_is_linted(forms, tmp_path):
    report = intraq_deploy.lint(str(forms[-2].path), target="onnxruntime")
    assert report.refused == 0
    assert (
        repr(report)
        == str(report)
        == (
            f"LintReport({forms[-2].path} for onnxruntime: 0 findings that it refuses or computes wrongly, "
            f"{len(report.findings)} that cost speed)"
        )
    )
    with pytest.raises(UsageError, match="jetson-orin-nano has several targets: give one of tensorrt-int8, "):
        intraq_deploy.lint(forms[-2].path, target="jetson-orin-nano")
    with pytest.raises(DataError, match="absent.onnx cannot be read"):
        intraq_deploy.lint(tmp_path / "absent.onnx", target="onnxruntime")


def test_a_run_that_is_none_is_not_bundled(tmp_path):
    with pytest.raises(intraq_deploy.RunError, match="is no run directory"):
        intraq_deploy.bundle(tmp_path, target="jetson-orin-nano")


def test_nobody_is_watching_a_test(model, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    images = api.synthesize(model, images=4, iterations=1)
    api.quantize(model, images, steps=1)
    assert capsys.readouterr() == ("", "")


def test_help_names_the_verbs():
    text = pydoc.plain(pydoc.render_doc(intraq_deploy))
    summary = text.partition("PACKAGE CONTENTS")[0]
    for verb in api.__all__:
        assert re.search(rf"^ +{verb}\(", summary, re.MULTILINE), verb
        assert f"    {verb}(" in text.partition("FUNCTIONS")[2]
    assert "weight_bits: int = 4" in pydoc.plain(pydoc.render_doc(intraq_deploy.quantize))


def test_the_package_lists_what_it_has():
    assert set(dir(intraq_deploy)) == set(intraq_deploy.__all__)
    for name in intraq_deploy.__all__:
        assert getattr(intraq_deploy, name) is not None
    assert issubclass(intraq_deploy.UsageError, intraq_deploy.IntraqError)
