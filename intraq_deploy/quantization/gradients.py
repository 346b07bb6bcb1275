"""Convolutions whose gradients are computed apart from their values.

Training must see the values that are shipped, so the forward pass is float32. Gradients are estimates in any case, and
may be computed in bfloat16: with eight bits of mantissa in their factors, and float32 sums, both convolutions of the
backward pass take half the time on CPUs with AVX512-BF16 or AMX, and half the memory is kept for them. On others they
are slower.

In both types the gradient of a bias is a sum of its own: oneDNN takes longer for a backward pass with a bias than for
both apart, most of all for 1x1 convolutions (benchmarks/throughput/parts.py --bias).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intraq_deploy.graph.ops import Conv2d

_How = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]
"""Stride, padding, dilation and groups."""


class _Convolution(torch.autograd.Function):
    """A convolution with a backward pass in `dtype`, for `convolve`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, how: _How, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x.to(dtype), weight.to(dtype))
        ctx.how = how
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        how = (stride, padding, dilation, False, (0, 0), groups)
        wanted = (*ctx.needs_input_grad[:2], False)
        by_y = gradient.to(x.dtype)
        by_x, by_weight, _ = torch.ops.aten.convolution_backward(by_y, x, weight, None, *how, wanted)
        by_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return (
            None if by_x is None else by_x.float(),
            None if by_weight is None else by_weight.float(),
            by_bias,
            None,
            None,
        )


def convolve(op: Conv2d, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Computes a convolution in float32, and its gradients in `dtype`, float32 or bfloat16.

    x: float32 [N, C, H, W]; weight: float32 [O, C / groups, kh, kw]; bias: float32 [O] -> float32 [N, O, H', W'].
    """
    top, left, bottom, right = op.padding
    padding = (top, left)
    if padding != (bottom, right):
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    y: Tensor = _Convolution.apply(x, weight, bias, (op.stride, padding, op.dilation, op.groups), dtype)
    return y
