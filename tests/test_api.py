"""The Python face: what no caller can have meant is one sentence, before any work."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from support import SMALL_SHAPE, model_of, random_images, small_network

import intraq_deploy
from intraq_deploy import api
from intraq_deploy.errors import ArchitectureError, CheckpointError, DataError, UsageError
from intraq_deploy.program.freeze import freeze
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


def test_the_package_lists_what_it_has():
    assert set(dir(intraq_deploy)) == set(intraq_deploy.__all__)
    for name in intraq_deploy.__all__:
        assert getattr(intraq_deploy, name) is not None
    assert issubclass(intraq_deploy.UsageError, intraq_deploy.IntraqError)
