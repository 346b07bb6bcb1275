"""A Gaussian low-pass on the images while they are made, and once they are (SynQ, Kim et al., ICLR 2025).

    y = IDFT(H * DFT(x))        H(u, v) = exp(-(u^2 + v^2) / (2 D^2))

with u, v and the cut-off D in cycles per pixel (SynQ: 80 cycles per 224 pixels, 0.36). The network sees filtered images
from the first step, so that none comes to need the frequencies that it loses.
"""

import torch
from torch import Tensor


class LowPass:
    """The filter for images of one size."""

    def __init__(self, height: int, width: int, cutoff: float, device: torch.device) -> None:
        """Makes the filter. cutoff: D, in cycles per pixel, above 0."""
        rows = torch.fft.fftfreq(height, device=device)[:, None]
        columns = torch.fft.rfftfreq(width, device=device)[None]
        self._response = torch.exp(-(rows.square() + columns.square()) / (2 * cutoff**2))

    def __call__(self, images: Tensor) -> Tensor:
        """Filters images, float32 [N, C, H, W], to the same shape."""
        spectrum = torch.fft.rfft2(images) * self._response
        filtered: Tensor = torch.fft.irfft2(spectrum, s=images.shape[2:])
        return filtered.contiguous(memory_format=torch.channels_last)
