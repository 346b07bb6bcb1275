"""Where quantizers go: a pass over the traced graph that answers, for every tensor and weight, what and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import (
    HAS_WEIGHT,
    MOVES_DATA,
    ON_INTEGERS,
    AveragePool2d,
    Clamp,
    GlobalAveragePool,
    Input,
    Linear,
)
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.quantization.spec import QuantSpec, weight_spec


@dataclass(frozen=True, slots=True)
class TensorPlacement:
    """What happens to one tensor."""

    role: str
    spec: QuantSpec | None
    """None: no quantizer of its own."""
    grid: str | None
    """The tensor whose quantizer it carries: itself, or the one it moves data from; None: it is float."""
    reason: str


@dataclass(frozen=True, slots=True)
class LayerPlacement:
    """What happens to one convolution or linear layer."""

    weight: QuantSpec
    integer: bool
    """Whether it can run on integers: its input is quantized, and so is its output unless that is the logits."""
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """One entry per node of the graph, and one per layer."""

    tensors: Mapping[str, TensorPlacement]
    layers: Mapping[str, LayerPlacement]

    def grid(self, name: str) -> str | None:
        """The tensor whose quantizer `name` carries, or None if it is float."""
        return self.tensors[name].grid

    def quantized(self) -> list[str]:
        """The tensors with a quantizer of their own, in execution order."""
        return [name for name, tensor in self.tensors.items() if tensor.spec is not None]


def place(graph: Graph, scheme: Scheme) -> Placement:
    """Applies `scheme` to `graph`. Raises UnsupportedModelError for a network without convolution or linear layer."""
    layers = graph.layers()
    if not layers:
        raise UnsupportedModelError("The network has no convolution or linear layer: there is nothing to quantize.")
    tensors: dict[str, TensorPlacement] = {}
    logits = _logits(graph)
    for node in graph.nodes:
        tensors[node.name] = _place_tensor(graph, node, scheme, tensors, logits)
    first, last = layers[0].name, layers[-1].name
    weights = {node.name: scheme.weight for node in layers}
    weights |= {first: scheme.first_weight, last: scheme.last_weight}
    symmetric = scheme.weight.symmetric
    weights |= {name: weight_spec(bits, symmetric=symmetric) for name, bits in scheme.layer_bits.items()}
    return Placement(tensors, {node.name: _place_layer(graph, node, weights[node.name], tensors) for node in layers})


def _logits(graph: Graph) -> set[str]:
    """The output, and what it is reached from by moving data only."""
    names, name = {graph.output}, graph.output
    while isinstance(graph[name].op, MOVES_DATA):
        (name,) = graph[name].inputs
        names.add(name)
    return names


def _place_tensor(
    graph: Graph, node: Node, scheme: Scheme, tensors: Mapping[str, TensorPlacement], logits: set[str]
) -> TensorPlacement:
    if node.name in logits:
        return TensorPlacement("logits", None, None, "logits stay float")
    if isinstance(node.op, MOVES_DATA):
        grid = tensors[node.inputs[0]].grid
        return TensorPlacement(
            "moved", None, grid, f"moves data: keeps the grid of {grid}" if grid else "its input is float"
        )
    role = _role(node)
    spec: QuantSpec | None = getattr(scheme, role)
    if spec is None:
        return TensorPlacement(role, None, None, f"scheme {scheme.name} leaves role {role!r} in float")
    if role == "linear" and not scheme.quantize_sums and not _read_by_layer(graph, node.name):
        return TensorPlacement(role, None, None, f"scheme {scheme.name} quantizes layer inputs only; no layer reads it")
    return TensorPlacement(role, spec, node.name, f"role {role!r}")


def _role(node: Node) -> str:
    match node.op:
        case Input():
            return "image"
        case Clamp():
            return "activation"
        case GlobalAveragePool() | AveragePool2d():
            return "pooled"
    return "linear" if node.activation is None else "activation"


def _read_by_layer(graph: Graph, name: str) -> bool:
    """Whether a convolution or linear layer reads the tensor, directly or through operators that move data."""
    return any(
        isinstance(reader.op, HAS_WEIGHT) or (isinstance(reader.op, MOVES_DATA) and _read_by_layer(graph, reader.name))
        for reader in graph.consumers(name)
    )


def _place_layer(graph: Graph, node: Node, weight: QuantSpec, tensors: Mapping[str, TensorPlacement]) -> LayerPlacement:
    source = node.inputs[0]
    if tensors[source].grid is None:
        return LayerPlacement(weight, False, f"runs in float: its input {source} is float ({tensors[source].reason})")
    if tensors[node.name].grid is None and not (tensors[node.name].role == "logits" and isinstance(node.op, Linear)):
        return LayerPlacement(weight, False, f"runs in float: its output is float ({tensors[node.name].reason})")
    return LayerPlacement(weight, True, "runs on integers")


def is_integer(graph: Graph, node: Node, placement: Placement) -> bool:
    """Whether a node computes on codes: it can, all its inputs are quantized, and its output is or is the logits of a
    layer."""
    if isinstance(node.op, HAS_WEIGHT):
        return placement.layers[node.name].integer
    quantized = all(placement.grid(name) is not None for name in (*node.inputs, node.name))
    return isinstance(node.op, ON_INTEGERS) and quantized
