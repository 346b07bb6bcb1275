"""The operators on real values: for tracing's check, fine-tuning and the reference's float parts."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from intraq_deploy.graph.graph import Clamp, Graph, Node
from intraq_deploy.graph.ops import (
    RELU,
    Add,
    AveragePool2d,
    ChannelNorm,
    Concat,
    Conv2d,
    Flatten,
    GlobalAveragePool,
    Input,
    Linear,
    MaxPool2d,
    Multiply,
    Op,
    Pad,
    Reshape,
    Slice,
    Transpose,
    Unary,
    UnitNorm,
)

_LEAST = 1e-30


def _root(x: Tensor, exponent: float) -> Tensor:
    """The power of an exponent below 1, whose slope at 0 is infinite: its gradient there is 0 instead."""
    return torch.where(x > 0, x.clamp(min=_LEAST).pow(exponent), x * 0.0)


FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Sigmoid": lambda x, _: torch.sigmoid(x),
    "HardSigmoid": lambda x, _: F.hardsigmoid(x),
    "Gelu": lambda x, _: F.gelu(x),
    "GeluTanh": lambda x, _: F.gelu(x, approximate="tanh"),
    "Tanh": lambda x, _: torch.tanh(x),
    "Mish": lambda x, _: F.mish(x),
    "LeakyRelu": F.leaky_relu,
    "Elu": F.elu,
    "Selu": lambda x, _: F.selu(x),
    "Celu": F.celu,
    "Softplus": lambda x, _: F.softplus(x),
    "Exp": lambda x, _: torch.exp(x),
    "Sqrt": lambda x, _: _root(x, 0.5),
    "Abs": lambda x, _: torch.abs(x),
    "Pow": lambda x, exponent: x.pow(exponent) if exponent >= 1 else _root(x, exponent),
}
"""Functions of a tensor, float32 or float64 of any shape, and alpha, by their names in `ops.FUNCTIONS`."""


def apply_layer(op: Conv2d | Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes a convolution or linear layer: x [N, ...], weight [O, ...], bias [O] -> [N, O, ...], any float dtype."""
    if isinstance(op, Linear):
        return F.linear(x, weight, bias)
    top, left, bottom, right = op.padding
    if (top, left) == (bottom, right):
        return F.conv2d(x, weight, bias, op.stride, (top, left), op.dilation, op.groups)
    padded = F.pad(x, (left, right, top, bottom))
    return F.conv2d(padded, weight, bias, op.stride, 0, op.dilation, op.groups)


def apply(op: Op, *inputs: Tensor) -> Tensor:
    """Computes an operator without weights on tensors [N, ...] of any float dtype.

    Raises TypeError for an operator with weights, and for the Input.
    """
    x = inputs[0]
    match op:
        case Add():
            return x + inputs[1]
        case Multiply():
            return x * inputs[1]
        case Clamp():
            return clamp(x, op)
        case Unary():
            return FUNCTIONS[op.function](x, op.alpha)
        case ChannelNorm():
            return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=op.epsilon).permute(0, 3, 1, 2)
        case UnitNorm():
            return F.normalize(x, dim=1)
        case GlobalAveragePool():
            return x.mean((2, 3), keepdim=True)
        case AveragePool2d():
            return _average(x, op)
        case MaxPool2d():
            return F.max_pool2d(x, op.kernel, op.stride, op.padding, op.dilation, op.ceil_mode)
        case Flatten():
            return x.flatten(1)
        case Reshape():
            return x.reshape(-1, *op.shape)
        case Transpose():
            return x.permute(0, *(d + 1 for d in op.permutation))
        case Concat():
            return torch.cat(inputs, op.dim + 1)
        case Slice():
            index = [slice(None)] * x.dim()
            index[op.dim + 1] = slice(op.start, op.stop, op.step)
            return x[tuple(index)]
        case Pad():
            (c0, h0, w0), (c1, h1, w1) = op.before, op.after
            return F.pad(x, (w0, w1, h0, h1, c0, c1))
    raise TypeError(f"{type(op).__name__} is not an operator without weights")


def _average(x: Tensor, op: AveragePool2d) -> Tensor:
    top, left, bottom, right = op.padding
    sides = (left, right, top, bottom)
    means = F.avg_pool2d(F.pad(x, sides), op.kernel, op.stride)
    if op.divides_alike:
        return means
    return means / F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), sides), op.kernel, op.stride)


def clamp(x: Tensor, activation: Clamp | None, ceiling: Tensor | None = None) -> Tensor:
    """Applies the activation behind a node, if any, to x [N, C, ...] of any float dtype.

    ceiling: float32 [C], in place of the activation's upper bound.
    """
    if activation is None:
        return x
    if ceiling is not None:
        return torch.minimum(x.clamp(min=activation.low), ceiling.reshape(-1, *[1] * (x.dim() - 2)))
    if activation == RELU:
        return torch.relu(x)
    # As torch.clamp, whose gradient takes three times as long on a CPU, and passes at the bounds: relu's does not.
    clamped: Tensor = torch.ops.aten.hardtanh(x, activation.low, activation.high)
    return clamped


Evaluate = Callable[[Node, Sequence[Tensor]], Tensor]
"""A function that makes a node's tensor from those of its inputs."""


def walk(graph: Graph, images: Tensor, evaluate: Evaluate) -> Tensor:
    """Runs a graph: `evaluate` makes each node's tensor from its inputs' (the Input's is `images`).

    images: [N, C, H, W], of any dtype that `evaluate` takes. Returns the output's tensor, [N, classes]. A tensor is let
    go after its last reader.
    """
    remaining = Counter(name for node in graph.nodes for name in node.inputs)
    remaining[graph.output] += 1
    values: dict[str, Tensor] = {}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs] or [images]
        values[node.name] = evaluate(node, inputs)
        for name in node.inputs:
            remaining[name] -= 1
            if not remaining[name]:
                values.pop(name, None)
    return values[graph.output]


def walk_keeping(
    graph: Graph, images: Tensor, evaluate: Evaluate, names: Collection[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Runs a graph as `walk` does, and returns the tensors `names` beside its output.

    images: [N, C, H, W], of any dtype that `evaluate` takes. Returns the output, [N, classes], and the tensors [N, ...]
    by name.
    """
    kept: dict[str, Tensor] = {}

    def evaluate_and_keep(node: Node, inputs: Sequence[Tensor]) -> Tensor:
        y = evaluate(node, inputs)
        if node.name in names:
            kept[node.name] = y
        return y

    return walk(graph, images, evaluate_and_keep), kept


def evaluate_float(graph: Graph, node: Node, inputs: Sequence[Tensor]) -> Tensor:
    """Computes one node of the float network, with its activation, on float32 tensors [N, ...]."""
    if isinstance(node.op, Input):
        return inputs[0]
    if isinstance(node.op, Conv2d | Linear):
        weights = graph.weights[node.name]
        y = apply_layer(node.op, inputs[0], *weights.folded())
        return clamp(y, node.activation, weights.ceiling)
    y = apply(node.op, *inputs)
    return clamp(y, node.activation)


def run_float(graph: Graph, images: Tensor) -> Tensor:
    """The float network's logits, float32 [N, classes]. images: float32 [N, C, H, W], normalised."""
    return walk(graph, images, lambda node, inputs: evaluate_float(graph, node, inputs))
