"""A network's blocks: student and teacher are compared at their ends, and one block at a time is reconstructed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intraq_deploy.graph.execute import Evaluate
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import Add


def block_outputs(graph: Graph) -> list[str]:
    """The residual sums in execution order; in networks without any, the last tensor of each image size."""
    maps = [node for node in graph.nodes[1:] if len(node.shape) == 3 and node.shape[1:] != (1, 1)]
    sums = [node.name for node in maps if isinstance(node.op, Add)]
    if sums:
        return sums
    last_of_size = {node.shape[1:]: node.name for node in maps}
    return list(last_of_size.values())


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a graph that runs on its own, from the tensors in front of it."""

    nodes: tuple[Node, ...]
    """The nodes in execution order."""
    inputs: tuple[str, ...]
    """The tensors that the block reads from before it; for the first block the image, under the Input's name."""
    outputs: tuple[str, ...]
    """The tensors that are read behind the block, or are the network's output: of a residual block, the sum alone."""

    @property
    def name(self) -> str:
        """The name of the block's last node."""
        return self.nodes[-1].name

    def run(self, tensors: Mapping[str, Tensor], evaluate: Evaluate) -> dict[str, Tensor]:
        """Runs the block, and returns its outputs by name.

        tensors: its inputs by name, float32 [N, ...], as the outputs; more may be there.
        """
        values = {name: tensors[name] for name in self.inputs}
        for node in self.nodes:
            values[node.name] = evaluate(node, [values[name] for name in _read(node)])
        return {name: values[name] for name in self.outputs}

    @torch.no_grad()
    def run_all(
        self, tensors: Mapping[str, Tensor], evaluate: Evaluate, batch: int, device: torch.device
    ) -> dict[str, Tensor]:
        """Runs the block on all images, `batch` at a time on `device`, and returns its outputs by name.

        tensors: its inputs by name, float32 [N, ...], in CPU memory, as the outputs.
        """
        made: dict[str, list[Tensor]] = {name: [] for name in self.outputs}
        for part in torch.arange(len(tensors[self.inputs[0]])).split(batch):
            inputs = {name: moved(tensors[name][part], device) for name in self.inputs}
            for name, tensor in self.run(inputs, evaluate).items():
                made[name].append(tensor.cpu())
        return {name: torch.cat(parts) for name, parts in made.items()}


def blocks(graph: Graph) -> list[Block]:
    """Cuts a graph into blocks that end at `block_outputs`, and one up to the logits: every node is in one of them."""
    ends = set(block_outputs(graph))
    stretches: list[list[Node]] = [[]]
    for node in graph.nodes:
        stretches[-1].append(node)
        if node.name in ends:
            stretches.append([])
    return [_block(graph, stretch) for stretch in stretches if stretch]


def single_nodes(graph: Graph) -> list[Block]:
    """Cuts a graph into blocks of one node, in execution order."""
    return [_block(graph, [node]) for node in graph.nodes]


def carried(tensors: Mapping[str, Tensor], following: Sequence[Block]) -> dict[str, Tensor]:
    """Keeps the tensors that the following blocks read. tensors: of any dtype and shape, by name."""
    read = {name for block in following for name in block.inputs}
    return {name: tensor for name, tensor in tensors.items() if name in read}


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves a tensor, of any dtype and shape, to `device`; one of four dimensions becomes channels last."""
    tensor = tensor.to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _block(graph: Graph, nodes: list[Node]) -> Block:
    made = {node.name for node in nodes} - {graph.input.name}
    read = dict.fromkeys(name for node in nodes for name in _read(node))
    behind = {name for node in graph.nodes if node not in nodes for name in node.inputs} | {graph.output}
    inputs = tuple(name for name in read if name not in made)
    return Block(tuple(nodes), inputs, tuple(node.name for node in nodes if node.name in behind))


def _read(node: Node) -> tuple[str, ...]:
    """The tensors that a node is evaluated on; the Input reads the image."""
    return node.inputs or (node.name,)
