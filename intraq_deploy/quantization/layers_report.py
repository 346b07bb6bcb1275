"""Rows that say what the placement pass did, layer by layer, for people and for run directories."""

from dataclasses import dataclass

from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import AveragePool2d, ChannelNorm, Input, Op, UnitNorm
from intraq_deploy.quantization.placement import Placement, is_integer


@dataclass(frozen=True, slots=True)
class LayerRow:
    """The row of one node of the network."""

    name: str
    operator: str
    output: str
    """How the node's output is quantized: "4 bits asymmetric", "as conv1" for moved data, or "float"."""
    weight: str
    """How the node's weight is quantized; empty without a weight."""
    integer: bool
    """Whether the node computes on integers."""
    reason: str


def layer_rows(graph: Graph, placement: Placement) -> list[LayerRow]:
    """One row per node, in execution order."""
    rows = []
    for node in graph.nodes:
        tensor = placement.tensors[node.name]
        layer = placement.layers.get(node.name)
        output = "float" if tensor.grid is None else f"as {tensor.grid}"
        rows.append(
            LayerRow(
                name=node.name,
                operator=type(node.op).__name__,
                output=output if tensor.spec is None else str(tensor.spec),
                weight="" if layer is None else str(layer.weight),
                integer=is_integer(graph, node, placement),
                reason=_reason(graph, node, placement),
            )
        )
    return rows


def _reason(graph: Graph, node: Node, placement: Placement) -> str:
    """Why a node computes as it does."""
    if node.name in placement.layers:
        return placement.layers[node.name].reason
    tensor = placement.tensors[node.name]
    if tensor.grid is None or is_integer(graph, node, placement) or isinstance(node.op, Input):
        return tensor.reason
    floats = [name for name in node.inputs if placement.grid(name) is None]
    return f"{tensor.reason}; computed in float: " + (
        f"its input {floats[0]} is float" if floats else _why_float(node.op)
    )


def _why_float(op: Op) -> str:
    match op:
        case ChannelNorm() | UnitNorm():
            return "no runtime normalises integers"
        case AveragePool2d():
            return "its windows have unlike divisors"
    return "one comparison per value, which is exact there too"
