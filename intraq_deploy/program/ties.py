"""Near ties: codes that depend on the order of float32 arithmetic, in which an honest runtime may differ.

A Program fixes one order of roundings. A runtime with another (TensorRT multiplies by f32(1 / s), and adds the bias
behind the product) computes the same real number y with another error, so its code can only differ where y lies within
the greater of the errors of the middle between two codes, both of which may occur, and then by one. With u = 2^-24 the
error of any order that rounds each step once is at most

    layer   4 u (|acc m| + |b m| + |y|)         m = s_x s_w / s_y; scales, product, sum and quotient
    sum     4 u (|a| + |b| + |y|)
    product 5 u |y|                             two values, their product, the reciprocal and its product
    mean    (n + 4) u mean|x|                   n summands in any order

in steps of the output. A difference anywhere else is none of rounding. Functions have the bound of
`arithmetic.unary_disagreements`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from intraq_deploy.graph.execute import apply_layer
from intraq_deploy.graph.graph import Node
from intraq_deploy.graph.ops import AVERAGES, MOVES_DATA, Add, Conv2d, Input, Linear, Multiply, Unary
from intraq_deploy.program import arithmetic
from intraq_deploy.program.program import IntegerWeights, Program
from intraq_deploy.program.reference import Reference, window_sums
from intraq_deploy.quantization.quantizer import by_row

_UNIT = 2.0**-24
_ROUNDINGS = 4


class TieReference(Reference):
    """The reference, which also says where its codes are within rounding of the next one."""

    def __init__(self, program: Program, device: str = "cpu") -> None:
        super().__init__(program, device)
        self.near: dict[str, Tensor] = {}
        """Whether each code of the last batch is near a tie, bool [N, ...], by exact tensor."""
        self.other: dict[str, Tensor] = {}
        """The codes of the last batch, near a tie the other ones, float32 [N, ...], by exact tensor."""

    def evaluate(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Computes one node as the reference does, on float32 [N, ...], and fills in `near` and `other`."""
        codes = super().evaluate(node, inputs)
        grid = self.program.grids.get(node.name)
        computed = isinstance(node.op, Input) or self.program.is_integer(node)
        if grid is not None and computed and not isinstance(node.op, MOVES_DATA):
            y, error = self._with_error(node, inputs)
            below = y.floor()
            within = (y > grid.code_min) & (y < grid.code_max)
            self.near[node.name] = near = ((y - below - 0.5).abs() <= error) & within
            self.other[node.name] = torch.where(near, 2 * below + 1 - codes, codes).to(codes.dtype)
        return codes

    def _with_error(self, node: Node, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The number that is rounded to the code, and the greatest error of any order of float32 sums: float64."""
        scale = self.program.grids[node.name].scale
        if isinstance(node.op, Input):
            return self._of_input(inputs[0].double(), scale)
        if isinstance(node.op, Conv2d | Linear):
            return self._of_layer(node, node.op, inputs[0].double(), scale)
        reals = [
            x.double() * (self.program.grids[name].scale / (1 if isinstance(node.op, Multiply) else scale))
            for x, name in zip(inputs, node.inputs, strict=True)
        ]
        match node.op:
            case Add():
                y = reals[0] + reals[1]
                return y, _ROUNDINGS * _UNIT * (reals[0].abs() + reals[1].abs() + y.abs())
            case Multiply():
                y = reals[0] * reals[1] / scale
                return y, (_ROUNDINGS + 1) * _UNIT * y.abs()
            case Unary():
                return self._of_function(node, node.op, inputs[0])
        assert isinstance(node.op, AVERAGES)
        total, count = window_sums(node.op, reals[0])
        sizes, _ = window_sums(node.op, reals[0].abs())
        return total / count, (count + _ROUNDINGS) * _UNIT * sizes / count

    def _of_input(self, images: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        normalization = self.program.normalization
        if normalization is None:
            y = images / scale
            return y, _ROUNDINGS * _UNIT * y.abs()
        shift, divisor = normalization.constants(torch.float64, self.device)
        y = (images - shift) / (divisor * scale)
        return y, _ROUNDINGS * _UNIT * ((images + shift.abs()) / (divisor * scale) + y.abs())

    def _of_layer(self, node: Node, op: Conv2d | Linear, codes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        weights = self.program.layers[node.name]
        assert isinstance(weights, IntegerWeights)
        step = weights.scale.to(self.device).double() * (self.program.grids[node.inputs[0]].scale / scale)
        accumulator = apply_layer(op, codes, weights.codes.to(self.device).double(), None)
        product = accumulator * by_row(step, accumulator[0])
        bias = by_row(weights.bias_codes.to(self.device).double() * step, accumulator[0])
        y = product + bias
        return y, _ROUNDINGS * _UNIT * (product.abs() + bias.abs() + y.abs())

    def _of_function(self, node: Node, op: Unary, codes: Tensor) -> tuple[Tensor, Tensor]:
        grid_x, grid_y = self.program.grids[node.inputs[0]], self.program.grids[node.name]
        y, error = arithmetic.unary_values(op, grid_x, grid_y), arithmetic.unary_errors(op, grid_x, grid_y)
        index = (codes - grid_x.code_min).long()
        return y.to(self.device)[index], error.to(self.device)[index]
