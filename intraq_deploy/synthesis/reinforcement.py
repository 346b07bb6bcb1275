"""Local object reinforcement: a random crop of every image, resized to full size, in one call for the whole batch.

Each crop covers an area fraction U(eta, 1) with an aspect ratio log-uniform in [3/4, 4/3], is read bilinearly, and is
flipped horizontally with probability 1/2. Gradients reach only the pixels that a crop covers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_ASPECT = 4 / 3


def random_crops(images: Tensor, smallest_area: float, generator: torch.Generator) -> Tensor:
    """Crops each image once, and resizes the crop to full size. images: float32 [N, C, H, W] -> the same shape.

    smallest_area: eta, a fraction of the image's area in (0, 1]. generator: on the CPU.
    """
    theta = _crop_transforms(len(images), smallest_area, generator).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    crops = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # grid_sample forgets the memory format, and the network behind it would follow.
    return crops.contiguous(memory_format=torch.channels_last)


def _crop_transforms(count: int, smallest_area: float, generator: torch.Generator) -> Tensor:
    """Affine maps from output to input coordinates in [-1, 1], float32 [N, 2, 3]."""
    area, aspect, x, y, flip = torch.rand(5, count, generator=generator)
    area = smallest_area + (1 - smallest_area) * area
    ratio = torch.exp((2 * aspect - 1) * math.log(_LARGEST_ASPECT))
    width = (area * ratio).sqrt().clamp(max=1)
    height = (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = torch.where(flip < 0.5, -width, width)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (2 * x - 1) * (1 - width)
    theta[:, 1, 2] = (2 * y - 1) * (1 - height)
    return theta
