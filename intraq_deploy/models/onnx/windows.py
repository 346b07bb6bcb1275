"""Maxima and means over windows and dimensions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intraq_deploy.models.onnx.attributes import Attributes, NodeError, padded, pair, sides
from intraq_deploy.models.onnx.calls import computes


@computes("MaxPool")
def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    if a["outputs"] > 1:
        raise NodeError("the places of its maxima")
    kernel = pair(a, "kernel_shape")
    top, left, bottom, right = around = sides(a, x, kernel)
    alike = (top, left) == (bottom, right)
    x = x if alike else padded(x, around, float("-inf"))
    return F.max_pool2d(
        x, kernel, pair(a, "strides"), (top, left) if alike else 0, pair(a, "dilations"), bool(a.get("ceil_mode", 0))
    )


@computes("AveragePool")
def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel = pair(a, "kernel_shape")
    top, left, bottom, right = around = sides(a, x, kernel)
    counts, alike = bool(a.get("count_include_pad", 0)), (top, left) == (bottom, right)
    if pair(a, "dilations") != (1, 1):
        raise NodeError(f"dilations {a['dilations']}")
    if not alike and not counts:
        raise NodeError(f"pads {list(around)} that do not count")
    x = x if alike else padded(x, around)
    ceil = bool(a.get("ceil_mode", 0))
    return F.avg_pool2d(x, kernel, pair(a, "strides"), (top, left) if alike else 0, ceil, counts)


@computes("GlobalAveragePool")
def _global_average(_: Attributes, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1)


@computes("GlobalMaxPool")
def _global_maximum(_: Attributes, x: Tensor) -> Tensor:
    return F.adaptive_max_pool2d(x, 1)


def _reduced(a: Attributes, x: Tensor, axes: Any) -> tuple[list[int], bool]:
    """The dimensions over which a node reduces, from 0, and whether they stay."""
    given = a.get("axes") if axes is None else axes
    if given is None or len(given) == 0:
        raise NodeError("every dimension, that of the images too")
    return sorted(int(axis) % x.dim() for axis in given), bool(a.get("keepdims", 1))


@computes("ReduceMean")
def _mean(a: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    return x.mean(*_reduced(a, x, axes))


@computes("ReduceMax")
def _maximum(a: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    return x.amax(*_reduced(a, x, axes))


@computes("ReduceL2")
def _length(a: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    dims, keepdims = _reduced(a, x, axes)
    length: Tensor = torch.linalg.vector_norm(x, 2, dims, keepdims)
    return length


@computes("ReduceSum")
def _sum(a: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    return x.sum(*_reduced(a, x, axes))
