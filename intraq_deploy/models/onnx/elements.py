"""Functions of elements, sums and products, and norms."""

import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intraq_deploy.models.onnx.attributes import Attributes, NodeError
from intraq_deploy.models.onnx.calls import CALLS, Call, computes, number

_FLOAT_TYPES = (1, 10, 11, 16)
"""ONNX's numbers of float32, float16, float64 and bfloat16: all are float32 here."""


def _of_tensor(function: Call, _: Attributes, x: Tensor) -> Any:
    return function(x)


for _kind, _function in dict[str, Call](
    {
        "Relu": F.relu,
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "Mish": F.mish,
        "HardSwish": F.hardswish,
        "Softplus": F.softplus,
        "Abs": torch.abs,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Log": torch.log,
        "Sqrt": torch.sqrt,
        "Neg": torch.neg,
        "Reciprocal": torch.reciprocal,
    }
).items():
    CALLS[_kind] = partial(_of_tensor, _function)


def _operand(value: Any) -> Any:
    """A single number as Python's own, which takes the tensor's type and device."""
    return value if isinstance(value, Tensor) else number(value)


def _folded(function: Callable[[Any, Any], Any], _: Attributes, *values: Any) -> Any:
    return reduce(function, map(_operand, values))


for _kind, _pairwise in {
    "Add": operator.add,
    "Sum": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
    "Pow": operator.pow,
}.items():
    CALLS[_kind] = partial(_folded, _pairwise)


@computes("Identity")
@computes("Dropout")
def _identity(_: Attributes, x: Tensor, *ratios: Any) -> Tensor:
    return x


@computes("Cast")
def _cast(a: Attributes, x: Tensor) -> Tensor:
    if a["to"] not in _FLOAT_TYPES:
        raise NodeError("a type that is no float")
    return x


@computes("LeakyRelu")
def _leaky_relu(a: Attributes, x: Tensor) -> Tensor:
    return F.leaky_relu(x, a.get("alpha", 0.01))


@computes("PRelu")
def _prelu(_: Attributes, x: Tensor, slopes: Any) -> Tensor:
    return F.prelu(x, slopes.flatten()) if isinstance(slopes, Tensor) else F.leaky_relu(x, number(slopes))


@computes("Elu")
def _elu(a: Attributes, x: Tensor) -> Tensor:
    return F.elu(x, a.get("alpha", 1.0))


@computes("Selu")
def _selu(a: Attributes, x: Tensor) -> Tensor:
    if a.keys() & {"alpha", "gamma"}:
        raise NodeError("alpha or gamma of its own")
    return F.selu(x)


@computes("Celu")
def _celu(a: Attributes, x: Tensor) -> Tensor:
    return F.celu(x, a.get("alpha", 1.0))


@computes("HardSigmoid")
def _hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    slope, shift = a.get("alpha", 0.2), a.get("beta", 0.5)
    if np.float32(slope) == np.float32(1 / 6) and shift == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * slope + shift, 0.0, 1.0)


@computes("Gelu")
def _gelu(a: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=a.get("approximate", "none"))


@computes("Swish")
def _swish(a: Attributes, x: Tensor) -> Tensor:
    slope = a.get("alpha", 1.0)
    return F.silu(x) if slope == 1 else x * torch.sigmoid(x * slope)


@computes("Clip")
def _clip(_: Attributes, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    bounds = [None if bound is None else number(bound) for bound in (low, high)]
    return x if bounds == [None, None] else torch.clamp(x, *bounds)


@computes("Max")
def _max(_: Attributes, *values: Any) -> Tensor:
    greatest: Tensor = reduce(_greater, values)
    return greatest


def _greater(a: Any, b: Any) -> Any:
    tensors = [each for each in (a, b) if isinstance(each, Tensor)]
    if len(tensors) == 2:
        return torch.maximum(a, b)
    return torch.clamp(tensors[0], min=number(b if a is tensors[0] else a))


@computes("Min")
def _min(_: Attributes, *values: Any) -> Tensor:
    tensors = [each for each in values if isinstance(each, Tensor)]
    if len(tensors) != 1:
        raise NodeError(f"{len(tensors)} tensors (one, and numbers, are supported)")
    return reduce(
        lambda x, high: torch.clamp(x, max=number(high)), [v for v in values if v is not tensors[0]], tensors[0]
    )


@computes("Softmax")
def _softmax(a: Attributes, x: Tensor) -> Tensor:
    return F.softmax(x, a.get("axis", -1))


@computes("LogSoftmax")
def _log_softmax(a: Attributes, x: Tensor) -> Tensor:
    return F.log_softmax(x, a.get("axis", -1))


@computes("LpNormalization")
def _unit(a: Attributes, x: Tensor) -> Tensor:
    return F.normalize(x, p=a.get("p", 2), dim=a.get("axis", -1))


@computes("LayerNormalization")
def _layer_norm(a: Attributes, x: Tensor, gain: Tensor, shift: Tensor | None = None) -> Tensor:
    if a.get("axis", -1) not in (-1, x.dim() - 1):
        raise NodeError(f"axis {a['axis']} (the last is supported)")
    return F.layer_norm(x, x.shape[-1:], gain, shift, a.get("epsilon", 1e-5))
