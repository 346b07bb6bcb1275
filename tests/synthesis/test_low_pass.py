"""The low-pass on images."""

import math

import torch

from intraq_deploy.synthesis.low_pass import LowPass

CPU = torch.device("cpu")


def wave(size, cycles):
    """A cosine along the width, float32 [1, 1, size, size]."""
    return torch.cos(2 * math.pi * cycles * torch.arange(size) / size).expand(1, 1, size, size).contiguous()


def test_each_frequency_is_scaled_by_the_gaussian():
    low_pass = LowPass(32, 32, 0.36, CPU)
    for cycles in (0, 1, 8, 16):
        response = math.exp(-((cycles / 32) ** 2) / (2 * 0.36**2))
        torch.testing.assert_close(low_pass(wave(32, cycles)), response * wave(32, cycles), atol=1e-5, rtol=1e-5)


def test_sizes_that_are_odd_or_unequal():
    images = torch.randn(2, 3, 7, 10, generator=torch.Generator().manual_seed(0))
    filtered = LowPass(7, 10, 0.2, CPU)(images)
    assert filtered.shape == images.shape
    torch.testing.assert_close(filtered.mean((2, 3)), images.mean((2, 3)))
    assert float(filtered.var()) < 0.8 * float(images.var())


def test_it_is_differentiable_and_its_own_transpose():
    low_pass = LowPass(8, 8, 0.25, CPU)
    images = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    other = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    (low_pass(images) * other).sum().backward()
    torch.testing.assert_close(images.grad, low_pass(other), atol=1e-5, rtol=1e-4)
