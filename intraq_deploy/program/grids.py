"""Grids of codes from a fake-quant module's quantizers."""

import math
from dataclasses import replace

from intraq_deploy.graph.graph import Node
from intraq_deploy.graph.ops import AVERAGES, MOVES_DATA, Clamp, Pad, Unary
from intraq_deploy.program.arithmetic import f32, unary_table
from intraq_deploy.program.program import Grid
from intraq_deploy.quantization.network import FakeQuantNetwork

Bounds = tuple[int, int]


def grid_of(network: FakeQuantNetwork, name: str) -> Grid | None:
    """The grid of the tensor `name`, its bounds narrowed to the codes that can occur; None if it is float.

    A ReLU-like function clip(x, low, high) in front of a quantizer Q becomes the bounds Q(low) and Q(high): Q is
    monotone, so this is exact for every scale. A mean lies between its input's least and greatest value, a function's
    values among those of its input's codes.
    """
    grid = _narrowed_grid(network, name)
    owner = network.placement.grid(name)
    if grid is None or owner is None:
        return None
    sharing = (other for other in network.placement.sharing(owner) if network.placement.tensors[other].spec is not None)
    lowest = min(_bounds(network, network.graph[other])[0] for other in sharing)
    return replace(grid, lowest=lowest)


def _grid(network: FakeQuantNetwork, name: str) -> Grid | None:
    """The grid with the quantizer's own bounds."""
    quantizer = network.quantizer(name)
    if quantizer is None:
        return None
    low, high = quantizer.bounds()
    return Grid(float(quantizer.scale.detach()), quantizer.spec.bits, low, high, low)


def _narrowed_grid(network: FakeQuantNetwork, name: str) -> Grid | None:
    """The grid of the codes that the tensor itself can hold, whatever shares it: that may be made from this tensor."""
    grid = _grid(network, name)
    if grid is None:
        return None
    low, high = _bounds(network, network.graph[name])
    return replace(grid, code_min=low, code_max=high, lowest=low)


def _bounds(network: FakeQuantNetwork, node: Node) -> Bounds:
    """The least and the greatest code that a quantized tensor can hold."""
    if isinstance(node.op, MOVES_DATA):
        inputs = [_bounds(network, network.graph[name]) for name in node.inputs]
        # What pads with zeros need not find them among what an activation lets through.
        zero = [0] if isinstance(node.op, Pad) else []
        return min(zero + [low for low, _ in inputs]), max(zero + [high for _, high in inputs])
    grid = _grid(network, node.name)
    assert grid is not None
    activation = node.op if isinstance(node.op, Clamp) else node.activation
    if activation is not None:
        return _narrowed(grid, activation.low, activation.high)
    source = _narrowed_grid(network, node.inputs[0]) if isinstance(node.op, (Unary, *AVERAGES)) else None
    if source is None:
        return grid.code_min, grid.code_max
    if isinstance(node.op, Unary):
        codes = unary_table(node.op, source, grid)
        return int(codes.min()), int(codes.max())
    low, high = min(source.code_min, 0), max(source.code_max, 0)
    return _narrowed(grid, source.scale * low, source.scale * high)


def _narrowed(grid: Grid, low: float, high: float) -> Bounds:
    """The codes of values between low and high."""

    def code(bound: float, unbounded: int) -> int:
        if math.isinf(bound):
            return unbounded
        # round() is half to even, and float32 division is what the quantizer does
        return min(max(round(f32(f32(bound) / grid.scale)), grid.code_min), grid.code_max)

    return code(low, grid.code_min), code(high, grid.code_max)
