"""The fake-quant module: the traced network with quantizers, by the same rules as the device.

A convolution or linear layer with its batch norm computes

    y = conv(x_fq, w_fq * g) + round(bias / step) * step        g = gamma / sigma, sigma = sqrt(variance + epsilon)
    bias = beta + (b - mean) g                                  step = s_x s_w |g|, per output channel

that is, the batch norm goes into the weight's *scale* and the bias lies on the accumulator's grid, as in the integers
that are shipped (the weight's codes never see the batch norm). Layers that run in float keep their bias as it is.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from intraq_deploy.graph.execute import apply, apply_layer, clamp, walk, walk_keeping
from intraq_deploy.graph.graph import Graph, Node, Weights
from intraq_deploy.graph.ops import RELU, Clamp, Conv2d, Input, Linear
from intraq_deploy.quantization.gradients import convolve
from intraq_deploy.quantization.placement import Placement
from intraq_deploy.quantization.quantizer import (
    SMALLEST_SCALE,
    ActivationQuantizer,
    LearnedWeightQuantizer,
    MinMaxWeightQuantizer,
    by_row,
    round_through,
)
from intraq_deploy.quantization.ranges import Range
from intraq_deploy.quantization.scheme import Ranges
from intraq_deploy.quantization.spec import QuantSpec

SMALLEST_STEP = 1e-30
"""The least step: it keeps a dead channel (gamma = 0) from dividing by zero; settling replaces such channels."""


class QuantizedLayer(nn.Module):
    """A convolution or linear layer with its batch norm, weights fake-quantized."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, op: Conv2d | Linear, weights: Weights, spec: QuantSpec, ranges: Ranges) -> None:
        super().__init__()
        self.op = op
        self.low_gradients = False
        """Whether gradients are computed in bfloat16 (quantization.gradients)."""
        channels = weights.weight.shape[0]
        self.weight = nn.Parameter(weights.weight.clone())
        bias = weights.bias if weights.bias is not None else torch.zeros(channels)
        norm = weights.batch_norm
        if norm is None:  # the identity as a batch norm: beta is the bias
            self.gamma = nn.Parameter(torch.ones(channels), requires_grad=False)
            self.beta = nn.Parameter(bias.clone())
            mean, deviation = torch.zeros(channels), torch.ones(channels)
        else:
            self.gamma = nn.Parameter(norm.gamma.clone())
            self.beta = nn.Parameter(norm.beta.clone())
            mean, deviation = norm.mean - bias, norm.deviation
        self.register_buffer("mean", mean.clone())
        self.register_buffer("deviation", deviation.clone())
        self.quantizer: LearnedWeightQuantizer | MinMaxWeightQuantizer
        if ranges == "learned":
            self.quantizer = LearnedWeightQuantizer(spec, channels)
        else:
            self.quantizer = MinMaxWeightQuantizer(spec, channels)

    def gain(self) -> Tensor:
        """The batch norm's gain gamma / sigma, float32 [O]."""
        return self.gamma / self.deviation

    def bias(self) -> Tensor:
        """The bias beta - mean gamma / sigma, float32 [O], not yet on the grid."""
        return self.beta - self.mean * self.gain()

    def codes(self) -> tuple[Tensor, Tensor]:
        """The weight as freezing takes it: codes and scales, with the batch norm in them.

        Returns the codes, int32 [O, ...], signs of gamma applied, and the scales s_w |g|, float32 [O].
        """
        with torch.no_grad():
            codes, (_, scale), gain = self.quantizer.codes(self.weight), self.quantizer(self.weight), self.gain()
            sign = torch.where(gain < 0, -1, 1).to(torch.int32)
            return codes * by_row(sign, codes), scale * gain.abs()

    def forward(self, x: Tensor, input_scale: Tensor | None) -> Tensor:
        """Computes the layer, in front of its activation: float32 [N, ...] -> float32 [N, O, ...].

        input_scale: of x, a scalar, float32; None where x lies on no grid.
        """
        gain, bias = self.gain(), self.bias()
        weight, scale = self.quantizer(self.weight)
        if input_scale is not None:
            step = (input_scale * (scale * gain.abs())).detach().clamp(min=SMALLEST_STEP)
            bias = round_through(bias / step) * step
        weight = weight * by_row(gain, weight)
        if isinstance(self.op, Conv2d):
            return convolve(self.op, x, weight, bias, torch.bfloat16 if self.low_gradients else torch.float32)
        return apply_layer(self.op, x, weight, bias)


class FakeQuantNetwork(nn.Module):
    """The low-bit student: the traced network, fake-quantized.

    graph: the traced network without its weights. Parameters: weights, gamma, beta and, if learned, the scales.
    """

    def __init__(self, graph: Graph, placement: Placement, ranges: Mapping[str, Range], method: Ranges) -> None:
        """Makes the module with learned scales of weights of 1: `build_network` searches for theirs.

        graph: with float weights, which are copied. ranges: where each activation quantizer starts.
        """
        super().__init__()
        self.graph = graph.topology()
        self.placement = placement
        self._layers = nn.ModuleDict()
        self._quantizers = nn.ModuleDict()
        for node in graph.layers():
            assert isinstance(node.op, Conv2d | Linear)
            spec = placement.layers[node.name].weight
            self._layers[_key(node.name)] = QuantizedLayer(node.op, graph.weights[node.name], spec, method)
        for name in placement.quantized():
            spec_, start = placement.tensors[name].spec, ranges[name]
            assert spec_ is not None
            scale = max(start.scale, SMALLEST_SCALE)
            quantizer = ActivationQuantizer(spec_, scale, start.zero_point, learned=method == "learned")
            self._quantizers[_key(name)] = quantizer

    def layer(self, name: str) -> QuantizedLayer:
        """The layer of the node `name`."""
        module = self._layers[_key(name)]
        assert isinstance(module, QuantizedLayer)
        return module

    def quantizer(self, name: str) -> ActivationQuantizer | None:
        """The quantizer whose grid the tensor `name` carries, its own or the one it moves data from."""
        grid = self.placement.grid(name)
        if grid is None:
            return None
        module = self._quantizers[_key(grid)]
        assert isinstance(module, ActivationQuantizer)
        return module

    def evaluate_layer(self, node: Node, x: Tensor) -> Tensor:
        """Computes a convolution or linear layer with its batch norm, in front of its activation.

        x: float32 [N, ...] -> float32 [N, O, ...].
        """
        integer = self.placement.layers[node.name].integer
        source = self.quantizer(node.inputs[0]) if integer else None
        y: Tensor = self.layer(node.name)(x, None if source is None else source.scale)
        return y

    def evaluate(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Computes one node with its activation and its quantizer.

        Inputs and result are values on their grids, or without a grid: float32 [N, ...].
        """
        if isinstance(node.op, Input):
            y = inputs[0]
        elif isinstance(node.op, Conv2d | Linear):
            y = self.evaluate_layer(node, inputs[0])
        else:
            y = apply(node.op, *inputs)
        made = self.placement.tensors[node.name].spec is not None
        quantizer = self.quantizer(node.name) if made else None
        if quantizer is None:
            return clamp(y, node.activation)
        quantized: Tensor = quantizer(y if _clips(quantizer, node.activation) else clamp(y, node.activation))
        return quantized

    def forward(self, images: Tensor) -> Tensor:
        """Maps images, float32 [N, C, H, W], normalised, to logits, float32 [N, classes]."""
        return walk(self.graph, images, self.evaluate)

    def features(self, images: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, float32 [N, classes], and the tensors `names` on their grids, float32 [N, ...].

        images: float32 [N, C, H, W], normalised.
        """
        return walk_keeping(self.graph, images, self.evaluate, names)

    def zero_points(self) -> dict[str, int]:
        """The zero-points of the activation quantizers, by tensor: with the state_dict, all that the module holds."""
        return {name: q.zero_point for name in self.placement.quantized() if (q := self.quantizer(name)) is not None}

    def load(self, state: Mapping[str, Any], zero_points: Mapping[str, int]) -> None:
        """Restores a state that `state_dict` and `zero_points` gave."""
        for name, zero_point in zero_points.items():
            quantizer = self.quantizer(name)
            assert quantizer is not None
            quantizer.zero_point = zero_point
        self.load_state_dict(state)


def _clips(quantizer: ActivationQuantizer, activation: Clamp | None) -> bool:
    """Whether a grid clips at least as an activation does, with the same gradients: so ReLU is left to grids that begin
    at 0, and ReLU6 to those that also end below 6."""
    first, last = quantizer.bounds()
    if activation is None or activation.low != 0 or first != 0:
        return False
    if activation == RELU:
        return True
    scale = quantizer.scale.detach()  # a GPU's would have to be waited for
    return scale.device.type == "cpu" and last * float(scale) <= activation.high


def _key(name: str) -> str:
    """A node's name as a module's: dots would nest, and a plain name could be a method of the container."""
    return f"/{name.replace('.', '/')}"
