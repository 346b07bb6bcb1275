"""The teacher: the float network as the traced graph, batch norms folded, with logits and the tensors in between."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from intraq_deploy.graph.execute import apply, apply_layer, clamp, walk_keeping
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import Conv2d, Input, Linear


class Teacher(nn.Module):
    """The float network that the student learns from. Nothing in it is trained."""

    def __init__(self, graph: Graph) -> None:
        """Copies the weights of `graph`, which has float ones."""
        super().__init__()
        self._graph = graph.topology()
        self._index = {node.name: index for index, node in enumerate(graph.layers())}
        for name, index in self._index.items():
            weight, bias = graph.weights[name].folded()
            self.register_buffer(f"weight{index}", weight.detach().clone())
            self.register_buffer(f"bias{index}", bias.detach().clone())
            self.register_buffer(f"ceiling{index}", graph.weights[name].ceiling)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, float32 [N, C, H, W], normalised, to logits, float32 [N, classes]."""
        return self.features(images, ())[0]

    def features(self, images: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, float32 [N, classes], and the tensors `names`, float32 [N, ...], activations applied.

        images: float32 [N, C, H, W], normalised.
        """
        return walk_keeping(self._graph, images, self.evaluate, names)

    def evaluate(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Computes one node with its activation, on float32 [N, ...]."""
        if isinstance(node.op, Input):
            return inputs[0]
        if isinstance(node.op, Conv2d | Linear):
            return self.activate(node, self.evaluate_layer(node, inputs[0]))
        return clamp(apply(node.op, *inputs), node.activation)

    def evaluate_layer(self, node: Node, x: Tensor) -> Tensor:
        """Computes a convolution or linear layer with its batch norm, in front of its activation.

        x: float32 [N, ...] -> float32 [N, O, ...].
        """
        assert isinstance(node.op, Conv2d | Linear)
        return apply_layer(node.op, x, *self.folded(node))

    def activate(self, node: Node, y: Tensor) -> Tensor:
        """Applies the activation of a convolution or linear layer. y: float32 [N, O, ...], on any device."""
        ceiling = getattr(self, f"ceiling{self._index[node.name]}")
        return clamp(y, node.activation, None if ceiling is None else ceiling.to(y.device))

    def folded(self, node: Node) -> tuple[Tensor, Tensor]:
        """A layer's weight and bias, its batch norm in them: float32 [O, ...] and [O]."""
        index = self._index[node.name]
        return getattr(self, f"weight{index}"), getattr(self, f"bias{index}")
