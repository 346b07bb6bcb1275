"""Dead leaves: images of no data set and no network, to compare students on.

Discs of random colours cover each other, the many small ones and few large ones of a scale-free world: p(r) ~ r^-3
between 1/16 and 1/2 of the side. Such images have edges and the power spectrum of photographs (Lee, Mumford, Huang,
"Occlusion models for natural images", IJCV 2001). Steps of a recipe are compared on them: synthetic images of one
recipe favour its own students, and so choose badly.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

_LEAST, _MOST = 1 / 16, 1 / 2
_LEAVES = 400
"""Enough to cover a square several times."""


def dead_leaves(count: int, size: int, seed: int) -> Tensor:
    """uint8 pixels [count, 3, size, size]."""
    generator = np.random.default_rng(seed)
    pixels = np.stack([_image(generator, size) for _ in range(count)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _image(generator: np.random.Generator, size: int) -> np.ndarray:
    # At four times the size, so that edges are smooth.
    side = 4 * size
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    # The inverse of p(r) ~ r^-3, integrated.
    least, most = _LEAST**-2, _MOST**-2
    radii = side * (least + generator.random(_LEAVES) * (most - least)) ** -0.5
    centres = generator.random((_LEAVES, 2)) * side
    colours = generator.integers(0, 256, (_LEAVES, 3))
    for radius, (x, y), colour in zip(radii, centres, colours, strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(colour.tolist()))
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))
