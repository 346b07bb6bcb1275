"""Where student and teacher are compared inside: at the ends of a network's blocks."""

from intraq_deploy.graph.graph import Graph
from intraq_deploy.graph.ops import Add


def block_outputs(graph: Graph) -> list[str]:
    """The residual sums; in networks without any, the last tensor of each image size. In execution order."""
    maps = [node for node in graph.nodes[1:] if len(node.shape) == 3 and node.shape[1:] != (1, 1)]
    sums = [node.name for node in maps if isinstance(node.op, Add)]
    if sums:
        return sums
    last_of_size = {node.shape[1:]: node.name for node in maps}
    return list(last_of_size.values())
