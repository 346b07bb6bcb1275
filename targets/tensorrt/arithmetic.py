"""TensorRT's arithmetic, simulated, to see how often and where its integers differ from a Program's.

TensorRT multiplies by the reciprocal of a scale where a Program divides, and adds the bias to the product where a
Program adds it to the accumulator. As the names of its generated kernels say (MulAddMaxMinMulMinMaxRounCast),

    codes(x)  = clip(rint(x f32(1 / s_x)))
    layer     = clip(rint(clip(f32(acc) f32(s_x s_w) + b) f32(1 / s_y)))       acc: exact in int32, without the bias
    sum       = codes(f32(s_a c_a) + f32(s_b c_b)),   product, mean and function likewise

in float32. Whether a product and the sum behind it are rounded once or twice is not said: both are tried. Integers
differ where the two forms fall on two sides of the middle between two codes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from intraq_deploy.graph.execute import apply, apply_layer, clamp
from intraq_deploy.graph.graph import Node
from intraq_deploy.graph.ops import Conv2d, Linear
from intraq_deploy.program import arithmetic
from intraq_deploy.program.arithmetic import quantize_by_reciprocal
from intraq_deploy.program.program import IntegerWeights, Program
from intraq_deploy.program.reference import Reference


class TensorRTArithmetic(Reference):
    """A simulation on the CPU of a program in TensorRT. fused: whether a product and a sum are rounded once."""

    def __init__(self, program: Program, *, fused: bool) -> None:
        super().__init__(program)
        self._fused = fused

    def observed(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, float32 [N, classes], and the codes by tensor, int16 [N, ...].

        images: [N, C, H, W], float32 and normalised, or uint8 where the program normalises.
        """
        codes: dict[str, Tensor] = {}

        def keep(name: str, found: Tensor) -> None:
            codes[name] = found.to(torch.int16)

        return self.run(images, keep), codes

    def _integer(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        grid = self.program.grids.get(node.name)
        if isinstance(node.op, Conv2d | Linear):
            y = self._layer(node, node.op, inputs[0])
            return clamp(y, node.activation) if grid is None else quantize_by_reciprocal(y, grid)
        values = [
            arithmetic.dequantize(x, self.program.grids[name]) for x, name in zip(inputs, node.inputs, strict=True)
        ]
        assert grid is not None
        return quantize_by_reciprocal(apply(node.op, *values), grid)

    def _layer(self, node: Node, op: Conv2d | Linear, codes: Tensor) -> Tensor:
        weights = self.program.layers[node.name]
        assert isinstance(weights, IntegerWeights)
        scale = arithmetic.accumulator_scale(self.program.grids[node.inputs[0]].scale, weights.scale)
        bias = weights.bias_codes.to(torch.float32) * scale
        accumulator = apply_layer(op, codes.double(), weights.codes.double(), None)
        by_channel, offset = (x.reshape(-1, *[1] * (accumulator.dim() - 2)) for x in (scale, bias))
        if self._fused:  # the product of two float32 is exact in float64
            return (accumulator * by_channel.double() + offset.double()).to(torch.float32)
        return accumulator.to(torch.float32) * by_channel + offset

    def _input(self, node: Node, images: Tensor) -> Tensor:
        grid = self.program.grids.get(node.name)
        if grid is None or self.program.normalization is not None:
            return super()._input(node, images)
        return quantize_by_reciprocal(images, grid)
