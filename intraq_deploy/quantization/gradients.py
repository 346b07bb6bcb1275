"""Convolutions whose gradients are computed in bfloat16, and whose values are not.

Training must see the values that are shipped, so the forward pass is float32. Gradients are estimates in any case: with
eight bits of mantissa in their factors, and float32 sums, both convolutions of the backward pass take half the time on
CPUs with AVX512-BF16 or AMX, and half the memory is kept for them. On others they are slower.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intraq_deploy.graph.ops import Conv2d


class _Convolution(torch.autograd.Function):
    """A convolution with a backward pass in bfloat16, for `convolve`. padding: what both sides have alike."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, op: Conv2d, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x.bfloat16(), weight.bfloat16())
        ctx.how = (op.stride, padding, op.dilation, False, (0, 0), op.groups)
        return F.conv2d(x, weight, bias, op.stride, padding, op.dilation, op.groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        wanted = (*ctx.needs_input_grad[:2], False)
        by_x, by_weight, _ = torch.ops.aten.convolution_backward(gradient.bfloat16(), x, weight, None, *ctx.how, wanted)
        by_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return (
            None if by_x is None else by_x.float(),
            None if by_weight is None else by_weight.float(),
            by_bias,
            None,
            None,
        )


def convolve(op: Conv2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes a convolution in float32, and its gradients in bfloat16.

    x: float32 [N, C, H, W]; weight: float32 [O, C / groups, kh, kw]; bias: float32 [O] -> float32 [N, O, H', W'].
    """
    top, left, bottom, right = op.padding
    padding = (top, left)
    if padding != (bottom, right):
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    y: Tensor = _Convolution.apply(x, weight, bias, op, padding)
    return y
