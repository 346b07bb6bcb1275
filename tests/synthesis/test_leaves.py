"""Dead leaves, from which synthesis can start."""

from dataclasses import replace

import pytest
import torch
from support import SMALL_SHAPE, model_of, small_network

from intraq_deploy.synthesis.leaves import dead_leaves
from intraq_deploy.synthesis.loop import pixel_bounds
from intraq_deploy.synthesis.make import make_images, probe_of
from intraq_deploy.synthesis.recipe import SynthesisRecipe


def drawn(seed, count=16, shape=(3, 64, 64)):
    return dead_leaves(count, *shape, torch.Generator().manual_seed(seed))


def spectrum_slope(images):
    """The exponent by which power falls with frequency, between 4 and 24 cycles per image of 64 pixels."""
    power = torch.fft.fft2(images - images.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    frequency = torch.hypot(*torch.meshgrid(*[64 * torch.fft.fftfreq(64)] * 2, indexing="ij"))
    within = (frequency > 4) & (frequency < 24)
    x, y = frequency[within].log(), power[within].log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())


def test_their_spectrum_falls_like_that_of_photographs_and_noise_does_not():
    assert -3.5 < spectrum_slope(drawn(0)) < -1.5
    assert abs(spectrum_slope(torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0)))) < 0.2


def test_channels_are_alike_but_not_the_same():
    red, green, _ = (drawn(0) - drawn(0).mean((2, 3), keepdim=True)).unbind(1)
    correlation = float((red * green).sum() / (red.square().sum() * green.square().sum()).sqrt())
    assert 0.6 < correlation < 0.99


def test_the_same_seed_draws_the_same_images_and_every_image_is_another():
    assert torch.equal(drawn(1), drawn(1))
    images = drawn(1)
    assert not any(torch.equal(images[0], image) for image in [*images[1:], *drawn(2)])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 48, 80), (4, 7, 5)])
def test_any_number_of_channels_and_any_size(shape):
    images = drawn(0, 8, shape)
    assert images.shape == (8, *shape)
    assert images.dtype == torch.float32
    assert images.amin() >= 0
    assert images.amax() <= 1
    assert images.std() > 0.15


def test_a_batch_starts_from_them_as_the_network_reads_pixels():
    model = model_of(small_network("resnet"), SMALL_SHAPE, 10)
    recipe = SynthesisRecipe(images=8, iterations=0, start="leaves")
    images = make_images(model, probe_of(model, torch.device("cpu")), recipe, 0).images
    black, white = pixel_bounds(model)
    assert (images >= black - 1e-6).all()
    assert (images <= white + 1e-6).all()
    assert -3.5 < spectrum_slope(torch.nn.functional.interpolate(images, size=(64, 64))) < -1
    noise = make_images(model, probe_of(model, torch.device("cpu")), replace(recipe, start="noise"), 0).images
    assert not torch.equal(images, noise)
