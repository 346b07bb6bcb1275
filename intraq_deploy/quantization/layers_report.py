"""What the placement pass did, layer by layer, for people and for run directories."""

from dataclasses import dataclass

from intraq_deploy.graph.graph import Graph
from intraq_deploy.quantization.placement import Placement, is_integer


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One node of the network."""

    name: str
    operator: str
    output: str
    """How its output is quantized: "4 bits asymmetric", "as conv1" for moved data, or "float"."""
    weight: str
    """How its weight is quantized, or empty."""
    integer: bool
    """Whether it computes on integers."""
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
                reason=tensor.reason if layer is None else layer.reason,
            )
        )
    return rows
