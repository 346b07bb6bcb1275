"""A graph as a torch module, with layers and batch norms that hooks see: the network without what its forward does to
gradients (`no_grad`, `inference_mode`, checkpoints)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraq_deploy.graph.execute import clamp, evaluate_float, walk
from intraq_deploy.graph.graph import Graph, Node, Weights
from intraq_deploy.graph.ops import Conv2d, Linear


class GraphModule(nn.Module):
    """The float network of a graph, in eval mode, without gradients of its own."""

    def __init__(self, graph: Graph) -> None:
        """Makes the module; it shares no tensor with the graph."""
        super().__init__()
        self._graph = graph
        self._names = {node.name: f"layer{index}" for index, node in enumerate(graph.layers())}
        made = {own: _Layer(graph[name], graph.weights[name]) for name, own in self._names.items()}
        self.layers = nn.ModuleDict(made)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, float32 [N, C, H, W], normalised, to logits, float32 [N, classes]."""
        return walk(self._graph, images, self._evaluate)

    def _evaluate(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        if node.name in self._names:
            y: Tensor = self.layers[self._names[node.name]](inputs[0])
            return y
        return evaluate_float(self._graph, node, inputs)


class _Layer(nn.Module):
    """A convolution or linear layer, the batch norm behind it, and its activation."""

    def __init__(self, node: Node, weights: Weights) -> None:
        super().__init__()
        self._activation, norm = node.activation, weights.batch_norm
        # What scales channels and has no epsilon was no batch norm in training.
        trained = norm is not None and norm.epsilon > 0
        weight, bias = (weights.weight, weights.bias) if trained else weights.folded()
        op = node.op
        self._sides = (0, 0, 0, 0)
        if isinstance(op, Conv2d):
            top, left, bottom, right = op.padding
            self._sides = (left, right, top, bottom)
            outputs, inputs, *_ = weight.shape
            kernel = (weight.shape[2], weight.shape[3])
            self.layer: nn.Module = nn.Conv2d(
                inputs * op.groups, outputs, kernel, op.stride, 0, op.dilation, op.groups, bias is not None
            )
        else:
            assert isinstance(op, Linear)
            self.layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
        self.layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        self.norm: nn.Module = nn.Identity()
        if trained and norm is not None:
            kind = nn.BatchNorm2d if isinstance(op, Conv2d) else nn.BatchNorm1d
            self.norm = kind(len(norm.mean), eps=norm.epsilon)
            state = {"weight": norm.gamma, "bias": norm.beta, "running_mean": norm.mean, "running_var": norm.variance}
            self.norm.load_state_dict(state | {"num_batches_tracked": torch.tensor(1)})
        self.register_buffer("ceiling", None if weights.ceiling is None else weights.ceiling.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Maps what the layer reads, float32 [N, ...], to what is behind its activation, float32 [N, ...]."""
        padded = F.pad(x, self._sides) if any(self._sides) else x
        return clamp(self.norm(self.layer(padded)), self._activation, self._buffers["ceiling"])
