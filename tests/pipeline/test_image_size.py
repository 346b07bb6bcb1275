"""The size of synthetic images: which networks take smaller ones, and how a program of another size sees them."""

import pytest
import torch
from support import model_of, random_images, realistic, small_network
from torch import nn

from intraq_deploy import api
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.image_size import enlarged, model_at
from intraq_deploy.pipeline.options import ModelOptions, OwnRecipe, make_options
from intraq_deploy.pipeline.progress import Silent
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import RunDirectory
from intraq_deploy.pipeline.validation import program_input
from intraq_deploy.program.freeze import freeze

SHAPE = (3, 64, 64)


@pytest.fixture(autouse=True)
def seeded():
    """Networks of one seed: with some weights every ReLU is on for the two images of the check, and windows of other
    sizes change nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def size_at(resolution, module, shape=SHAPE):
    """Height and width of the images that a network gets."""
    made = model_at(model_of(module, shape, 10), trace(module, shape), resolution)
    assert made.module is module
    return made.preprocessing.input_size


def convolutions(*head):
    """Two halvings, 8 channels, and what follows."""
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    return realistic(nn.Sequential(*layers, *head), SHAPE)


class Refusing(nn.Module):
    """As some networks of transformers: one size, and an error of its own kind for any other."""

    def __init__(self):
        super().__init__()
        self.body = small_network("resnet")

    def forward(self, x):
        if x.shape[2] != 64:
            raise ValueError("64 pixels, please")
        return self.body(x)


# --- which size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resolution", "shape", "expected"),
    [
        (0.5, SHAPE, (32, 32)),
        (0.01, SHAPE, (32, 32)),
        (0.9, SHAPE, (64, 64)),
        (0.6, (3, 224, 160), (128, 96)),
        (0.99, (3, 100, 40), (96, 32)),
        (0.5, (3, 20, 64), (20, 32)),
        (1.0, (3, 100, 40), (100, 40)),
    ],
    ids=str,
)
def test_sides_are_multiples_of_32_and_none_is_above_the_networks_own(resolution, shape, expected):
    assert size_at(resolution, small_network("resnet"), shape) == expected


KEEP = {
    "a flattened map": lambda: convolutions(nn.Flatten(), nn.Linear(8 * 256, 10)),
    "a pooling to 4 x 4": lambda: convolutions(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 16, 10)),
    "a pooling with other windows": lambda: convolutions(
        nn.AdaptiveAvgPool2d(4), nn.Conv2d(8, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "an error of its own": lambda: Refusing().eval(),
}


@pytest.mark.parametrize("name", KEEP)
def test_what_another_size_would_change_keeps_its_own(name):
    assert size_at(0.5, KEEP[name]()) == (64, 64)


@pytest.mark.parametrize("name", ["mobilenet", "windows of its own"])
def test_what_averages_over_positions_gets_the_small_size(name):
    module = small_network("mobilenet")
    if name != "mobilenet":
        module = convolutions(nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    assert size_at(0.5, module) == (32, 32)


# --- enlarged ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(6, 6), (7, 9), (8, 5), (15, 16), (23, 40), (5, 41)], ids=str)
def test_images_are_continued_by_reflection(size):
    """At (23, 40) more than once: to and fro."""
    images = random_images(2, (3, 5, 4))
    found = enlarged(images, *size)
    assert found.shape == (2, 3, *size)
    top, left = (size[0] - 5) // 2, (size[1] - 4) // 2
    assert torch.equal(found[:, :, top : top + 5, left : left + 4], images)
    rows = [4 - abs((row - top) % 8 - 4) for row in range(size[0])]
    columns = [3 - abs((column - left) % 6 - 3) for column in range(size[1])]
    assert torch.equal(found, images[:, :, rows][:, :, :, columns])


def test_what_is_large_enough_stays():
    images = random_images(2, (3, 5, 4))
    assert enlarged(images, 5, 4) is images
    assert enlarged(images.half(), 9, 9).dtype == torch.float16


# --- through the pipeline ------------------------------------------------------------------------------


def test_a_run_reads_the_network_at_the_small_size(tmp_path):
    def run_of(calibration, resolution):
        values = {"extends": "quick", "synthesis": {"resolution": resolution}}
        options = make_options(
            ModelOptions(source="test"), recipe=OwnRecipe(name="mine", values=values), calibration=calibration
        )
        return Run(
            options, lambda _: RunDirectory(tmp_path), model_of(small_network("resnet"), (3, 64, 72), 10), Silent()
        )

    run = run_of(None, 0.5)
    assert (run.model.input_shape, run.image_shape) == ((3, 64, 72), (3, 32, 32))
    assert run.image_model.module is run.model.module
    assert run.graph.input.shape == (3, 64, 72), "what is quantized and shipped stays as large as it was"
    assert run_of(None, 1.0).image_shape == (3, 64, 72)
    assert run_of(str(tmp_path), 0.5).image_shape == (3, 64, 72), "a person's own images"


def test_small_images_make_a_program_of_the_networks_own_size(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("""
        extends = "quick"
        [synthesis]
        images = 8
        iterations = 2
        resolution = 0.5
        [fitting]
        compensate = true
        correct = true
        [quantization]
        equalize = true
        [training]
        steps = 2
        batch = 4
    """)
    model = model_of(small_network("resnet"), SHAPE, 10)
    images = api.synthesize(model, recipe=file)
    assert images.images.shape == (8, 3, 32, 32)
    program = freeze(api.quantize(model, images, recipe=file))
    assert program.graph.input.shape == SHAPE
    assert program_input(program, images.images).shape == (8, *SHAPE)
    result = api.validate(api.export(program, tmp_path / "shipped", model=model), program, images)
    assert result.passes
    assert result.logits_equal
