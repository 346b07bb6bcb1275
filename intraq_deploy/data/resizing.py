"""Resizing and cropping an image of any size to the network's, pixel for pixel as torchvision does.

torchvision's presets for evaluation resize PIL images, whose filters are antialiased, and round sizes in a
certain way; both are kept here, because a model's published accuracy was measured with them.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intraq_deploy.models.model import Preprocessing

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""PIL's filters, by the names that `Preprocessing.interpolation` has."""


def to_network_size(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resizes one image and crops its centre.

    With `preprocessing.resize` the short side becomes that many pixels (with `squash` both sides do, in
    proportion to the input size); without, an image of another size is resized so that it just covers the
    input.
    Returns uint8 [H, W, C] of the network's input size; C is 1 for a greyscale image.
    """
    target = _resized(image, preprocessing)
    if target != (image.height, image.width):
        image = image.resize((target[1], target[0]), FILTERS[preprocessing.interpolation])
    pixels = np.array(_centre_crop(image, *preprocessing.input_size), dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Crops the centre; PIL fills with black where the image is smaller."""
    top = round((image.height - height) / 2)
    left = round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _resized(image: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    """Height and width after resizing."""
    height, width = preprocessing.input_size
    resize = preprocessing.resize
    if resize is None:
        return _covering(image, height, width)
    if preprocessing.squash:
        short = min(height, width)
        return resize * height // short, resize * width // short
    return _with_short_side(image, resize)


def _with_short_side(image: Image.Image, short: int) -> tuple[int, int]:
    """torchvision truncates the long side."""
    if image.width <= image.height:
        return int(short * image.height / image.width), short
    return short, int(short * image.width / image.height)


def _covering(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    """The smallest size with the image's aspect ratio that covers the network's input."""
    if (image.height, image.width) == (height, width):
        return height, width
    scale = max(height / image.height, width / image.width)
    return max(height, round(image.height * scale)), max(width, round(image.width * scale))
