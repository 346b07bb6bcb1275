"""The Python face: what no caller can have meant is one sentence, before any work."""

from pathlib import Path

import pytest
import torch
from support import SMALL_SHAPE, model_of, random_images, small_network

from intraq_deploy import api
from intraq_deploy.errors import DataError, UsageError
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
        (3, "The recipe is 3, of type int: give the name of a built-in one, or the pathlib.Path of your own."),
        (None, "The recipe is None, of type NoneType: give"),
        ("mine.toml", "The recipe 'mine.toml' is no built-in one's name: give pathlib.Path('mine.toml') for a file."),
        ("recipes/mine", "give pathlib.Path('recipes/mine') for a file."),
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
