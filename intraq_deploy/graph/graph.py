"""A network as a list of operators in the order they run: what tracing makes and everything after it shares."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from intraq_deploy.graph import ops
from intraq_deploy.graph.ops import HAS_WEIGHT, Clamp, Input, Op

INPUT_NAME, OUTPUT_NAME = "image", "logits"
"""The names of the network's input and output; no other node has them."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of the network. Its output tensor carries its name."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    """The shape of the output, without the batch."""
    activation: Clamp | None = None
    """A ReLU-like function applied to the output, where only that function reads it."""


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """A batch norm: y = gamma (x - mean) / sqrt(variance + epsilon) + beta, per channel; each tensor float32 [C]."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor
    epsilon: float

    @property
    def deviation(self) -> Tensor:
        """The deviation sigma = sqrt(variance + epsilon), float32 [C]."""
        return torch.sqrt(self.variance + self.epsilon)

    def followed_by(self, norm: "BatchNorm") -> "BatchNorm":
        """This batch norm and `norm` behind it, as one."""
        gain = norm.gamma / norm.deviation
        return replace(self, gamma=self.gamma * gain, beta=norm.beta + (self.beta - norm.mean) * gain)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a Conv2d or Linear, and the batch norm behind it, if any: weight [O, ...], bias [O] or None."""

    weight: Tensor
    bias: Tensor | None
    batch_norm: BatchNorm | None
    ceiling: Tensor | None = None
    """The upper bound of each channel in the float network, float32 [O], in place of the activation's `high`. The
    quantized network keeps `high`."""

    def folded(self) -> tuple[Tensor, Tensor]:
        """The layer and its batch norm as one weight [O, ...] and bias [O], float32."""
        bias = self.bias if self.bias is not None else torch.zeros(self.weight.shape[0])
        if self.batch_norm is None:
            return self.weight, bias
        norm = self.batch_norm
        gain = norm.gamma / norm.deviation
        weight = self.weight * gain.reshape(-1, *[1] * (self.weight.dim() - 1))
        return weight, norm.beta + (bias - norm.mean) * gain


@dataclass(frozen=True, slots=True)
class Graph:
    """A network: its nodes in execution order, the first an Input, and the float weights of its layers by node name."""

    nodes: tuple[Node, ...]
    output: str
    """The node that makes the logits."""
    weights: Mapping[str, Weights] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    @property
    def input(self) -> Node:
        return self.nodes[0]

    def consumers(self, name: str) -> list[Node]:
        return [node for node in self.nodes if name in node.inputs]

    def layers(self) -> list[Node]:
        """The nodes with weights, in execution order."""
        return [node for node in self.nodes if isinstance(node.op, HAS_WEIGHT)]

    def topology(self) -> "Graph":
        """This graph without its float weights."""
        return replace(self, weights={})

    def to_json(self) -> dict[str, Any]:
        """Nodes and output as plain values; weights are not part of it."""
        return {"output": self.output, "nodes": [_node_to_json(node) for node in self.nodes]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Graph":
        return Graph(tuple(_node_from_json(node) for node in data["nodes"]), data["output"])


def _op_to_json(op: Op) -> dict[str, Any]:
    if isinstance(op, Clamp):  # JSON has no infinity
        return {"op": "Clamp", "low": _finite_or_none(op.low), "high": _finite_or_none(op.high)}
    return {"op": type(op).__name__} | {name: getattr(op, name) for name in op.__slots__}


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _op_from_json(data: Mapping[str, Any]) -> Op:
    if data["op"] == "Clamp":
        low, high = data["low"], data["high"]
        return Clamp(-math.inf if low is None else low, math.inf if high is None else high)
    kind = getattr(ops, data["op"])
    values = {key: tuple(data[key]) if isinstance(data[key], list) else data[key] for key in kind.__slots__}
    op: Op = kind(**values)
    return op


def _node_to_json(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        **_op_to_json(node.op),
        "inputs": node.inputs,
        "shape": node.shape,
        "activation": None if node.activation is None else _op_to_json(node.activation),
    }


def _node_from_json(data: Mapping[str, Any]) -> Node:
    activation = None if data["activation"] is None else _op_from_json(data["activation"])
    assert activation is None or isinstance(activation, Clamp)
    return Node(
        name=data["name"],
        op=_op_from_json(data),  # a Reshape's shape is the node's too
        inputs=tuple(data["inputs"]),
        shape=tuple(data["shape"]),
        activation=activation,
    )


__all__ = ["BatchNorm", "Clamp", "Graph", "Input", "Node", "Op", "Weights"]
