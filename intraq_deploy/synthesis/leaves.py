"""Dead leaves: images of no data set and no network, from which synthesis can start.

Leaves of random place, size, shape and colour cover each other, as things in the world do (Lee, Mumford, Huang,
"Occlusion models for natural images", IJCV 2001). Their radii r have the density p(r) ~ r^-3, and a leaf is

    |x / a|^p + |y / b|^p <= 1        a b = r^2, turned by a random angle

a diamond (p = 1), an ellipse (2) or nearly a rectangle (8). Each carries texture, noise whose amplitude falls with
frequency as f^-k. Such images have edges, areas and the spectrum of photographs, which Gaussian noise has not; networks
that are trained on them learn far more than from noise (Baradad et al., "Learning to see by looking at noise", NeurIPS
2021). docs/accuracy.md has what they are worth as a start.
"""

import math

import torch
from torch import Tensor

_LEAVES = 100
_LEAST, _MOST = 1 / 6, 1.5
"""The least and the greatest radius, as a share of the image's side."""
_POWERS = (1.0, 2.0, 8.0)
_LONGEST = 1.6
"""The greatest ratio of a to r."""
_MEAN, _LUMINANCE, _COLOUR = 0.47, 0.25, 0.08
"""The mean of leaves' colours, of 0 (black) to 1 (white), and their deviations: of all channels together, and of each
channel alone. In photographs, channels are alike."""
_TEXTURE = 0.24
"""The greatest deviation of a leaf's texture."""
_TEXTURES = 6
_SPECTRA = (1.0, 2.0)
"""The least and the greatest k."""


def dead_leaves(count: int, channels: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draws images, float32 [count, channels, height, width], from 0 (black) to 1 (white)."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    side = max(height, width)
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    textures = [_noise((count, channels, height, width), generator) for _ in range(_TEXTURES)]
    images = _colours(count, channels, generator).expand(-1, -1, height, width)
    for leaf in range(_LEAVES):
        radius = side * uniform(_MOST**-2, _LEAST**-2).rsqrt()
        stretch = uniform(-math.log(_LONGEST), math.log(_LONGEST)).exp()
        angle, power = uniform(0, math.pi), torch.tensor(_POWERS)[torch.randint(3, (count, 1, 1), generator=generator)]
        down, across = rows - height * uniform(0, 1), columns - width * uniform(0, 1)
        x = (across * angle.cos() + down * angle.sin()) / stretch
        y = (down * angle.cos() - across * angle.sin()) * stretch
        inside = radius - (x.abs() ** power + y.abs() ** power) ** (1 / power)
        shift = torch.randint(side, (2,), generator=generator).tolist()
        texture = textures[leaf % _TEXTURES].roll(shift, (2, 3)) * _TEXTURE * uniform(0, 1)[:, None]
        # Half covered where the edge runs through the middle of a pixel.
        images = images.lerp(_colours(count, channels, generator) + texture, (inside + 0.5).clamp(0, 1)[:, None])
    return images.clamp(0, 1).contiguous()


def _colours(count: int, channels: int, generator: torch.Generator) -> Tensor:
    """Draws one colour for each image, float32 [count, channels, 1, 1]."""
    shared, own = (torch.randn(count, c, 1, 1, generator=generator) for c in (1, channels))
    return _MEAN + _LUMINANCE * shared + _COLOUR * own


def _noise(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """Draws noise of deviation 1 whose amplitude falls with frequency, in each image by its own power: float32 of
    `shape`. A third of each channel's amplitude is its own."""
    count, _, height, width = shape
    low, high = _SPECTRA
    power = low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    white = torch.randn(count, 1, height, width, generator=generator)
    white = white + torch.randn(shape, generator=generator) / 3
    rising = frequency.clamp(min=1 / max(height, width)) ** power
    noise: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) / rising, s=shape[2:])
    return noise.div_(noise.std((2, 3), keepdim=True).clamp(min=1e-6))
