"""The placement of quantizers: a pass over the traced graph says, for every tensor and weight, what it gets and why."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import (
    AVERAGES,
    HAS_WEIGHT,
    MOVES_DATA,
    Clamp,
    Conv2d,
    Input,
    Linear,
    Multiply,
    Unary,
    on_integers,
)
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.quantization.spec import MAX_BITS, QuantSpec, weight_spec


@dataclass(frozen=True, slots=True)
class TensorPlacement:
    """The placement of one tensor."""

    role: str
    spec: QuantSpec | None
    """The quantizer of the tensor; None where it is not quantized where it is made."""
    grid: str | None
    """The tensor whose quantizer this one carries: itself, the one that it moves data from, or the first of those that
    are concatenated with it; None for a float tensor."""
    reason: str


@dataclass(frozen=True, slots=True)
class LayerPlacement:
    """The placement of one convolution or linear layer."""

    weight: QuantSpec
    integer: bool
    """Whether the layer can run on integers: its input is quantized, and so is its output unless that is the logits."""
    reason: str


@dataclass(frozen=True, slots=True)
class Placement:
    """The placement of all tensors, by node, and of all layers."""

    tensors: Mapping[str, TensorPlacement]
    layers: Mapping[str, LayerPlacement]

    def grid(self, name: str) -> str | None:
        """The tensor whose quantizer `name` carries, or None if it is float."""
        return self.tensors[name].grid

    def quantized(self) -> list[str]:
        """The tensors that have a quantizer, in execution order; others share theirs."""
        return [name for name, tensor in self.tensors.items() if tensor.grid == name]

    def sharing(self, grid: str) -> list[str]:
        """All tensors with the quantizer of `grid`, in execution order."""
        return [name for name, tensor in self.tensors.items() if tensor.grid == grid]


def place(graph: Graph, scheme: Scheme) -> Placement:
    """Places quantizers in `graph` as `scheme` says.

    Raises UnsupportedModelError for a network without convolution or linear layer.
    """
    layers = graph.layers()
    if not layers:
        raise UnsupportedModelError("The network has no convolution or linear layer: there is nothing to quantize.")
    logits, gates = _logits(graph), _gates(graph)
    specs: dict[str, QuantSpec | None] = {}
    roles: dict[str, str] = {}
    for node in graph.nodes:
        if node.name not in logits and not isinstance(node.op, MOVES_DATA):
            roles[node.name] = _role(graph, node, logits, gates)
            specs[node.name] = _spec(graph, node.name, scheme, roles[node.name])
    grids = _grids(graph, specs, logits)
    tensors = {
        node.name: _place_tensor(node, scheme, roles.get(node.name), grids, specs, logits) for node in graph.nodes
    }
    first, last = layers[0].name, layers[-1].name
    byte = weight_spec(MAX_BITS, limit=scheme.largest_weight)
    depthwise = scheme.depthwise_weight or scheme.weight
    weights = {node.name: depthwise if is_depthwise(graph, node) else scheme.weight for node in layers}
    weights |= {node.name: byte for node in layers if _is_scale(graph, node)}
    weights |= {first: scheme.first_weight, last: scheme.last_weight}
    symmetric = scheme.weight.symmetric
    for name, bits in scheme.layer_bits.items():
        weights[name] = weight_spec(bits, symmetric=symmetric, limit=scheme.largest_weight)
    return Placement(tensors, {node.name: _place_layer(graph, node, weights[node.name], tensors) for node in layers})


def is_depthwise(graph: Graph, node: Node) -> bool:
    """Whether a layer makes each of its channels from an area of one of several."""
    if not isinstance(node.op, Conv2d) or node.op.groups == 1:
        return False
    weight = graph.weights[node.name].weight
    return weight.shape[1] == 1 and weight.shape[2:] != (1, 1)


def _is_scale(graph: Graph, node: Node) -> bool:
    """A batch norm without a convolution: one weight per channel, for which few bits gain nothing."""
    if not isinstance(node.op, Conv2d) or node.op.groups != node.shape[0]:
        return False
    return graph.weights[node.name].weight.shape[1:] == (1, 1, 1)


def _logits(graph: Graph) -> set[str]:
    """The output, and what it is reached from by moving data only."""
    names, name = {graph.output}, graph.output
    while isinstance(graph[name].op, MOVES_DATA) and len(graph[name].inputs) == 1:
        (name,) = graph[name].inputs
        names.add(name)
    return names


def _gates(graph: Graph) -> set[str]:
    """The tensors that only make the gates of products: their sources, as far back as these are single pixels."""
    names = set()
    for node in reversed(graph.nodes):
        readers = graph.consumers(node.name)
        of_product = bool(readers) and all(isinstance(reader.op, Multiply) for reader in readers)
        of_gates = bool(readers) and all(reader.name in names for reader in readers)
        is_pixel = node.shape[1:] == (1, 1)
        if (of_product and (is_pixel or isinstance(node.op, Unary | Clamp))) or (of_gates and is_pixel):
            names.add(node.name)
    return names


def _role(graph: Graph, node: Node, logits: set[str], gates: set[str]) -> str:
    if isinstance(node.op, Input):
        return "image"
    readers = graph.consumers(node.name)
    averaged_logits = {name for name in logits if isinstance(graph[name].op, AVERAGES)}
    # A mean over a whole map keeps more precision than its pixels have: few bits would be lost for nothing.
    if isinstance(node.op, AVERAGES) or {reader.name for reader in readers} <= averaged_logits:
        return "pooled"
    if node.name in gates:
        return "gate"
    if isinstance(node.op, Clamp | Unary) or node.activation is not None or _is_gated(graph, node):
        return "activation"
    return "linear"


def _is_gated(graph: Graph, node: Node) -> bool:
    """Whether a node is the product of a tensor and of a function of it: SiLU, HardSwish."""
    functions = [graph[name] for name in node.inputs if isinstance(graph[name].op, Unary)]
    return isinstance(node.op, Multiply) and any(set(gate.inputs) < set(node.inputs) for gate in functions)


def _spec(graph: Graph, name: str, scheme: Scheme, role: str) -> QuantSpec | None:
    """The quantizer of a tensor on its own; None leaves it in float."""
    if role == "linear" and not scheme.quantize_sums and not _read_by_layer(graph, name):
        return None
    spec: QuantSpec | None = getattr(scheme, role)
    return spec


def _grids(graph: Graph, specs: dict[str, QuantSpec | None], logits: set[str]) -> dict[str, str | None]:
    """The tensor whose quantizer each tensor carries.

    What is concatenated shares one quantizer, the widest of those that its parts would have (specs is changed so):
    codes then move without a change. Where a part is float, so is the concatenation.
    """
    grids: dict[str, str | None] = {}
    for group in _groups(graph):
        made = [name for name in group if name in specs]
        wanted = [spec for name in made if (spec := specs[name]) is not None]
        if made and len(wanted) == len(made) and not logits.intersection(group):
            specs |= dict.fromkeys(made, _widest(wanted))
            grids |= dict.fromkeys(group, group[0])
    for node in graph.nodes:
        if node.name in grids:
            continue
        if node.name in specs:
            grids[node.name] = None if specs[node.name] is None else node.name
        else:
            sources = {grids[name] for name in node.inputs}
            grids[node.name] = sources.pop() if len(sources) == 1 and node.name not in logits else None
    return grids


def _groups(graph: Graph) -> list[list[str]]:
    """The tensors that are moved into one another, in execution order."""
    first = {node.name: node.name for node in graph.nodes}
    for node in graph.nodes:
        if isinstance(node.op, MOVES_DATA):
            joined = {first[name] for name in (*node.inputs, node.name)}
            earliest = next(name for name in first if name in joined)
            first |= {name: earliest for name, of in first.items() if of in joined}
    groups: dict[str, list[str]] = {}
    for name, of in first.items():
        groups.setdefault(of, []).append(name)
    return list(groups.values())


def _widest(specs: list[QuantSpec]) -> QuantSpec:
    """The most bits; asymmetric if one of those with as many is."""
    bits = max(spec.bits for spec in specs)
    return replace(specs[0], bits=bits, symmetric=all(spec.symmetric for spec in specs if spec.bits == bits))


def _place_tensor(
    node: Node,
    scheme: Scheme,
    role: str | None,
    grids: Mapping[str, str | None],
    specs: Mapping[str, QuantSpec | None],
    logits: set[str],
) -> TensorPlacement:
    grid = grids[node.name]
    if node.name in logits:
        return TensorPlacement("logits", None, None, "logits stay float")
    if role is None:
        reason = f"moves data: keeps the grid of {grid}" if grid else "its input is float"
        return TensorPlacement("moved", None, grid, reason)
    if grid is None:
        return TensorPlacement(role, None, None, f"scheme {scheme.name} leaves role {role!r} in float")
    shared = "" if grid == node.name else f", one grid with {grid}"
    return TensorPlacement(role, specs[node.name], grid, f"role {role!r}{shared}")


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
    return on_integers(node.op) and quantized
