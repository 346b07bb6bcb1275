"""Fake quantization: values on a grid in float, with gradients.

Forward, round half to even, x / s in float32:

    c = clip(round(x / s), code_min, code_max)          x_fq = s c

Backward (LSQ, Esser et al., ICLR 2020; straight-through inside the range, nothing outside):

    dx_fq/dx = 1 where code_min < x / s < code_max, else 0
    dx_fq/ds = c - x / s inside, c outside;   the gradient of s is multiplied by 1 / sqrt(n * code_max)

with n the number of values that share the scale.
"""

from typing import Any

import torch
from torch import Tensor, nn

from intraq_deploy.quantization.spec import QuantSpec, code_bounds

SMALLEST_SCALE = 1e-8


class _LearnedStep(torch.autograd.Function):
    """The equations above. x: any shape; scale: 0-dim, or [O, 1, ...] for one per row; bounds of codes are numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, code_min: int, code_max: int) -> Tensor:
        ratio = torch.div(x, scale)
        quantized = torch.clamp(ratio, code_min, code_max).round_().mul_(scale)
        ctx.save_for_backward(ratio, scale, quantized)
        ctx.bounds = (code_min, code_max)
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        ratio, scale, quantized = ctx.saved_tensors
        code_min, code_max = ctx.bounds
        if ratio.dim() == 4 and ratio.is_contiguous(memory_format=torch.channels_last):
            # The gradient of a mean over pixels lies otherwise, and would pass that on through every sum before it.
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        gradient_x = torch.ops.aten.hardtanh_backward(gradient, ratio, code_min, code_max)
        shared = ratio.numel() // scale.numel()
        # sum(g c) - sum(g_inside x / s), with c = x_fq / s
        by_codes = _sum_product(gradient, quantized, scale.shape) / scale
        gradient_scale = by_codes - _sum_product(gradient_x, ratio, scale.shape)
        return gradient_x, gradient_scale / (shared * max(code_max, 1)) ** 0.5, None, None


def _sum_product(a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    """The sum of a b down to `shape`. One pass without a temporary where it is a single number."""
    if shape:
        return (a * b).sum_to_size(shape)
    if a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last):
        a = a.permute(0, 2, 3, 1)
        b = b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


def fake_quantize(x: Tensor, scale: Tensor, code_min: int, code_max: int) -> Tensor:
    """Puts x on the grid of `scale`, differentiable in both (equations above).

    x: float32 of any shape; scale: float32, a scalar, or [O, 1, ...] for one per row. Returns float32 of x's shape.
    """
    result: Tensor = _LearnedStep.apply(x, scale, code_min, code_max)
    return result


def round_through(x: Tensor) -> Tensor:
    """Rounds x, float32 of any shape, and passes the gradient through as it is."""
    return x + (x.round() - x).detach()


class ActivationQuantizer(nn.Module):
    """One tensor's quantizer: a scale for all its values, learned or fixed, and a fixed zero-point."""

    def __init__(self, spec: QuantSpec, scale: float, zero_point: int, *, learned: bool) -> None:
        super().__init__()
        self.spec = spec
        self.zero_point = zero_point
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float32), requires_grad=learned)

    def bounds(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        return code_bounds(self.spec, self.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Puts x, float32 of any shape, on the grid."""
        return fake_quantize(x, self.scale, *self.bounds())


class LearnedWeightQuantizer(nn.Module):
    """A symmetric quantizer with one learned scale per output channel, float32 [O]."""

    def __init__(self, spec: QuantSpec, channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The weight [O, ...] on its grid, and the grid's scales [O], float32."""
        return fake_quantize(weight, by_row(self.scale, weight), *self.spec.symmetric_range()), self.scale

    def codes(self, weight: Tensor) -> Tensor:
        """The codes of a weight, float32 [O, ...]: int32 of the same shape."""
        codes = (weight / by_row(self.scale, weight)).round().clamp(*self.spec.symmetric_range())
        return codes.to(torch.int32)


class MinMaxWeightQuantizer(nn.Module):
    """A quantizer whose range is each channel's live minimum and maximum, zero included (IntraQ's own).

    Asymmetric: s = (max - min) / (2^b - 1), z = round(-min / s), codes [-z, 2^b - 1 - z]. Symmetric (8 bits, where
    asymmetric codes would not fit a signed byte): s = max|w| / code_max. The gradient passes straight through.
    """

    floor: Tensor

    def __init__(self, spec: QuantSpec, channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("floor", torch.full((channels,), SMALLEST_SCALE))
        """The least scale of each channel, float32 [O]: dead channels get a greater one."""

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The weight [O, ...] on its grid, and the grid's scales [O], float32."""
        codes, scale = self._quantize(weight.detach())
        return weight + (codes * by_row(scale, weight) - weight).detach(), scale

    def codes(self, weight: Tensor) -> Tensor:
        """The codes of a weight, float32 [O, ...]: int32 of the same shape."""
        return self._quantize(weight)[0].to(torch.int32)

    def _quantize(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        rows = weight.flatten(1)
        low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
        if self.spec.symmetric:
            code_min, code_max = self.spec.symmetric_range()
            scale = torch.maximum(torch.maximum(-low, high) / code_max, self.floor)
            return (weight / by_row(scale, weight)).round().clamp(code_min, code_max), scale
        scale = torch.maximum((high - low) / (self.spec.levels - 1), self.floor)
        zero_point = (-low / scale).round()
        first, last = -zero_point, self.spec.levels - 1 - zero_point
        codes = (weight / by_row(scale, weight)).round()
        return torch.minimum(torch.maximum(codes, by_row(first, weight)), by_row(last, weight)), scale


def by_row(values: Tensor, like: Tensor) -> Tensor:
    """Shapes values [O], of any dtype, so that they apply to the rows of `like` [O, ...]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
