"""Swing: random shifts in front of strided convolutions while images are made (GENIE, Jeon et al., CVPR 2023).

A convolution with stride s reads every image at the same phase, so gradients reach pixels unevenly and leave a
checkerboard. Each pass, its input is padded by reflection with s - 1 pixels on each side and cropped back to its size
at an offset drawn from 0 .. 2 (s - 1), the same for the whole batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Swing:
    """A forward pre-hook for strided convolutions. Its shifts are drawn from `generator`, on the CPU."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        assert isinstance(layer, nn.Conv2d)
        x = inputs[0]
        height, width = x.shape[2:]
        rows, columns = (min(stride - 1, size - 1) for stride, size in zip(layer.stride, (height, width), strict=True))
        padded = F.pad(x, (columns, columns, rows, rows), mode="reflect")
        top, left = (int(torch.randint(2 * most + 1, (), generator=self._generator)) for most in (rows, columns))
        shifted = padded[:, :, top : top + height, left : left + width]
        return (shifted.contiguous(memory_format=torch.channels_last), *inputs[1:])


def is_strided(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that leaves out positions."""
    return isinstance(layer, nn.Conv2d) and max(layer.stride) > 1
