"""The reference: it runs a Program exactly as it is defined. Every runtime must equal it; it imports none.

Integers are held in floating point where that is exact: float32 on the CPU while every partial sum stays below 2^24,
else float64 (below 2^53, and always on a GPU, whose float32 convolutions may reorder into other number formats).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from intraq_deploy.graph.execute import apply, apply_layer, clamp, walk
from intraq_deploy.graph.graph import Node
from intraq_deploy.graph.ops import (
    AVERAGES,
    MOVES_DATA,
    Add,
    AveragePool2d,
    Conv2d,
    GlobalAveragePool,
    Input,
    Linear,
    Multiply,
    Pad,
    Unary,
)
from intraq_deploy.program import arithmetic
from intraq_deploy.program.bounds import accumulator_bound
from intraq_deploy.program.program import IntegerWeights, Program
from intraq_deploy.quantization.quantizer import by_row

Observe = Callable[[str, Tensor], Tensor | None]
"""A function that is called with the name and the codes of a quantized tensor, and may return other codes."""
_EXACT_FLOAT32 = 1 << 24


class Reference:
    """The reference of one program, on `device`."""

    def __init__(self, program: Program, device: str = "cpu") -> None:
        self.program = program
        self.device = torch.device(device)
        self._prepared = {
            name: _Prepared(program, program.graph[name], weights, self.device)
            for name, weights in program.layers.items()
            if isinstance(weights, IntegerWeights)
        }

    def run(self, images: Tensor, observe: Observe | None = None) -> Tensor:
        """Runs the program, and returns its logits, float32 [N, classes].

        images: float32 [N, C, H, W], normalised, or uint8 for a program with a normalization. observe: called with
        the name and codes (float32 integers, [N, ...]) of every quantized tensor, in execution order; it may return
        other codes for what reads the tensor.
        """

        def evaluate(node: Node, inputs: Sequence[Tensor]) -> Tensor:
            value = self.evaluate(node, inputs)
            if observe is None or node.name not in self.program.grids:
                return value
            other = observe(node.name, value)
            return value if other is None else other

        with torch.no_grad():
            return walk(self.program.graph, images.to(self.device), evaluate)

    def evaluate(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Computes one node on codes, float32 integers [N, ...], where tensors are quantized; else on values, float32.

        Only the Input reads images, float32 or uint8.
        """
        grids = self.program.grids
        if isinstance(node.op, Input):
            return self._input(node, inputs[0])
        if isinstance(node.op, MOVES_DATA) and node.name in grids:
            return self._move(node, inputs)
        if self.program.is_integer(node):
            return self._integer(node, inputs)
        return self._float(node, inputs)

    def _integer(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Computes an integer node: from codes to codes, or to an integer classifier's logits."""
        if isinstance(node.op, Conv2d | Linear):
            return self._prepared[node.name].run(inputs[0])
        grids = [self.program.grids[name] for name in (*node.inputs, node.name)]
        match node.op:
            case Add():
                return arithmetic.add(inputs[0], inputs[1], *grids)
            case Multiply():
                return arithmetic.multiply(inputs[0], inputs[1], *grids)
            case Unary():
                grid_x, grid_y = grids
                table = arithmetic.unary_table(node.op, grid_x, grid_y).to(self.device)
                return table[(inputs[0] - grid_x.code_min).long()]
        assert isinstance(node.op, AVERAGES)
        total, count = window_sums(node.op, inputs[0].double())
        return arithmetic.average(total, count, *grids)

    def _input(self, node: Node, images: Tensor) -> Tensor:
        normalization = self.program.normalization
        if normalization is not None:
            images = normalization.apply(images)
        grid = self.program.grids.get(node.name)
        return images if grid is None else arithmetic.quantize(images, grid)

    def _move(self, node: Node, codes: Sequence[Tensor]) -> Tensor:
        # The code of zero is zero, so padding in codes is padding in values.
        assert not isinstance(node.op, Pad) or self.program.grids[node.name].code_min <= 0
        return apply(node.op, *codes)

    def _float(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Computes a node in float32: dequantizes what is quantized, and quantizes the output where it is."""
        grids = self.program.grids
        values = [
            arithmetic.dequantize(x, grids[name]) if name in grids else x
            for name, x in zip(node.inputs, inputs, strict=True)
        ]
        if isinstance(node.op, Conv2d | Linear):
            weights = self.program.layers[node.name]
            assert not isinstance(weights, IntegerWeights)
            y = apply_layer(node.op, values[0], weights.weight().to(self.device), weights.bias.to(self.device))
        else:
            y = apply(node.op, *values)
        y = clamp(y, node.activation)
        grid = grids.get(node.name)
        return y if grid is None else arithmetic.quantize(y, grid)


def window_sums(op: GlobalAveragePool | AveragePool2d, codes: Tensor) -> tuple[Tensor, int]:
    """Sums over windows, zeros padded, and how many codes each is of. codes: [N, C, H, W] of any float dtype."""
    if isinstance(op, GlobalAveragePool):
        return codes.sum((2, 3), keepdim=True), codes.shape[2] * codes.shape[3]
    top, left, bottom, right = op.padding
    padded = F.pad(codes, (left, right, top, bottom))
    return F.avg_pool2d(padded, op.kernel, op.stride, divisor_override=1), op.kernel[0] * op.kernel[1]


class _Prepared:
    """An integer layer, ready to run."""

    def __init__(self, program: Program, node: Node, weights: IntegerWeights, device: torch.device) -> None:
        assert isinstance(node.op, Conv2d | Linear)
        self._op, self._activation = node.op, node.activation
        grid_x, self._grid = program.grids[node.inputs[0]], program.grids.get(node.name)
        exact = int(accumulator_bound(weights, grid_x).max()) < _EXACT_FLOAT32 and device.type == "cpu"
        self._dtype = torch.float32 if exact else torch.float64
        self._codes = weights.codes.to(device, self._dtype)
        self._bias = weights.bias_codes.to(device, self._dtype)
        scale = arithmetic.accumulator_scale(grid_x.scale, weights.scale)
        if self._grid is not None:
            scale = arithmetic.multiplier(grid_x.scale, weights.scale, self._grid.scale)
        self._scale = scale.to(device)

    def run(self, codes: Tensor) -> Tensor:
        accumulator = apply_layer(self._op, codes.to(self._dtype), self._codes, self._bias).to(torch.float32)
        y = accumulator * by_row(self._scale, accumulator[0])
        if self._grid is None:
            return clamp(y, self._activation)
        return y.round_().clamp_(self._grid.code_min, self._grid.code_max)
