"""Resizing and cropping are torchvision's, pixel for pixel."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from intraq_deploy.data.labelled import normalise
from intraq_deploy.data.resizing import FILTERS, to_network_size
from intraq_deploy.models.model import Preprocessing

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZES = [(97, 61), (61, 97), (64, 64), (33, 250), (32, 32), (500, 375), (20, 31)]


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(width * height).integers(0, 256, shape, np.uint8), mode)


def preprocessing(size=(32, 32), **options) -> Preprocessing:
    return Preprocessing(size, *IMAGENET, **options)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_short_side_and_centre_crop(size, interpolation):
    image = noise(*size)
    mode = v2.InterpolationMode(interpolation)
    expected = v2.Compose([v2.Resize(37, mode), v2.CenterCrop(32)])(image)
    pixels = to_network_size(image, preprocessing(resize=37, interpolation=interpolation))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(expected))


def test_squash():
    image = noise(100, 60)
    expected = v2.Compose([v2.Resize((36, 36), v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)])(image)
    pixels = to_network_size(image, preprocessing(resize=36, interpolation="bicubic", squash=True))
    assert np.array_equal(pixels, np.asarray(expected))


def test_normalised_as_torchvision_does():
    image = noise(90, 70)
    expected = v2.Compose(
        [
            v2.Resize(40),
            v2.CenterCrop(32),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*IMAGENET),
        ]
    )(image)
    values = preprocessing(resize=40)
    pixels = torch.from_numpy(to_network_size(image, values)).permute(2, 0, 1)[None]
    assert torch.allclose(normalise(pixels, values)[0], expected, atol=1e-6)


def test_torchvisions_own_preset():
    """The whole way, as the weights entry of a torchvision network does it."""
    from torchvision.models import ResNet18_Weights

    from intraq_deploy.models import torchvision_zoo

    image = noise(300, 280)
    values = torchvision_zoo.preprocessing("resnet18")
    pixels = torch.from_numpy(to_network_size(image, values)).permute(2, 0, 1)[None]
    assert torch.allclose(normalise(pixels, values)[0], ResNet18_Weights.DEFAULT.transforms()(image), atol=1e-6)


def test_without_resize_an_image_of_the_right_size_is_untouched():
    image = noise(32, 32)
    assert np.array_equal(to_network_size(image, preprocessing()), np.asarray(image))


@pytest.mark.parametrize(
    ("size", "cover"),
    [((64, 64), (32, 32)), ((100, 50), (64, 32)), ((50, 100), (32, 64)), ((10, 20), (32, 64))],
)
def test_without_resize_other_images_just_cover_the_input(size, cover):
    image = noise(*size)
    expected = v2.CenterCrop(32)(image.resize(cover, Image.Resampling.BILINEAR))
    assert np.array_equal(to_network_size(image, preprocessing()), np.asarray(expected))


def test_inputs_that_are_not_square():
    assert to_network_size(noise(100, 100), preprocessing((24, 40))).shape == (24, 40, 3)
    assert to_network_size(noise(100, 100), preprocessing((24, 40), resize=48, squash=True)).shape == (
        24,
        40,
        3,
    )


def test_greyscale_keeps_a_channel():
    assert to_network_size(noise(40, 50, "L"), preprocessing()).shape == (32, 32, 1)
