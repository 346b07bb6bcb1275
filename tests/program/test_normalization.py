"""Pixels become normalised images and come back."""

import torch

from intraq_deploy.program.program import Normalization

NORMALIZATION = Normalization.of((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
EVERY_PIXEL = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)


def test_every_pixel_comes_back():
    images = NORMALIZATION.apply(EVERY_PIXEL)
    assert images.dtype == torch.float32
    assert torch.equal(NORMALIZATION.invert(images), EVERY_PIXEL)


def test_pixels_are_shifted_and_divided_by_channel():
    black = NORMALIZATION.apply(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)).flatten()
    torch.testing.assert_close(black, torch.tensor([-0.5 / 0.25, -0.4 / 0.2, -0.3 / 0.3]))


def test_values_beyond_the_pixels_become_the_nearest_pixel():
    far = torch.tensor([-1e6, 1e6]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert NORMALIZATION.invert(far).unique().tolist() == [0, 255]
