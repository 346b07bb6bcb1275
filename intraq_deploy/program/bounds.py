"""Bounds of accumulators and codes, for any input: what need not be clipped, and what fits int32."""

import math

import torch
from torch import Tensor

from intraq_deploy.graph.graph import Node
from intraq_deploy.graph.ops import MOVES_DATA, Add, AveragePool2d, Conv2d, GlobalAveragePool, Linear, Multiply, Unary
from intraq_deploy.program import arithmetic
from intraq_deploy.program.program import Grid, IntegerWeights, Program

Reach = tuple[float, float]
ANYWHERE = (-math.inf, math.inf)


def unclipped_bounds(program: Program, node: Node) -> Reach:
    """The least and the greatest code of a quantized tensor, if its bounds did not clip it, for any input codes."""
    grid_y = program.grids[node.name]
    if isinstance(node.op, MOVES_DATA):
        return grid_y.code_min, grid_y.code_max
    if not program.is_integer(node):
        return ANYWHERE
    inputs = [program.grids[name] for name in node.inputs]
    match node.op:
        case Conv2d() | Linear():
            weights = program.layers[node.name]
            assert isinstance(weights, IntegerWeights)
            return _layer(weights, inputs[0], grid_y)
        case Add():
            low, high = (sum(_values(grid)[side] for grid in inputs) for side in (0, 1))
            return _codes(low, high, grid_y)
        case Multiply():
            products = [a * b for a in _values(inputs[0]) for b in _values(inputs[1])]
            return _codes(min(products), max(products), grid_y)
        case GlobalAveragePool() | AveragePool2d():
            low, high = _values(inputs[0])
            return _codes(min(low, 0), max(high, 0), grid_y)  # zeros pad
        case Unary():
            codes = arithmetic.unary_values(node.op, inputs[0], grid_y).round()
            return float(codes.min()), float(codes.max())
    return ANYWHERE


def _layer(weights: IntegerWeights, grid_x: Grid, grid_y: Grid) -> Reach:
    low, high = accumulator_range(weights, grid_x)
    multiplier = arithmetic.multiplier(grid_x.scale, weights.scale, grid_y.scale).double()
    return float((low * multiplier).round().min()), float((high * multiplier).round().max())


def accumulator_range(weights: IntegerWeights, grid_x: Grid) -> tuple[Tensor, Tensor]:
    """The least and the greatest accumulator of each channel that any input can cause, float64 [O]. Padding is zero."""
    codes = weights.codes.double().flatten(1)
    least, most = min(grid_x.code_min, 0), max(grid_x.code_max, 0)
    bias = weights.bias_codes.double()
    high = torch.where(codes > 0, codes * most, codes * least).sum(1) + bias
    low = torch.where(codes > 0, codes * least, codes * most).sum(1) + bias
    return low, high


def accumulator_bound(weights: IntegerWeights, grid_x: Grid) -> Tensor:
    """The bound of all partial sums of a channel's products: max|c_x| sum|c_w| + |bias_codes|, int64 [O]."""
    largest_code = max(abs(grid_x.code_min), abs(grid_x.code_max))
    return (
        largest_code * weights.codes.to(torch.int64).abs().flatten(1).sum(1) + weights.bias_codes.to(torch.int64).abs()
    )


def accumulators(program: Program) -> dict[str, int]:
    """Returns the bound of every integer layer's accumulator, for any input, by name."""
    return {
        name: int(accumulator_bound(weights, program.grids[program.graph[name].inputs[0]]).max())
        for name, weights in program.layers.items()
        if isinstance(weights, IntegerWeights)
    }


def _values(grid: Grid) -> Reach:
    return grid.scale * grid.code_min, grid.scale * grid.code_max


def _codes(low: float, high: float, grid: Grid) -> Reach:
    """The codes of values from low to high, with room for float32's rounding."""
    return math.floor(low / grid.scale + 0.499), math.ceil(high / grid.scale - 0.499)
