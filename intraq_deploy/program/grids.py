"""From a fake-quant module's quantizers to grids of codes."""

import math
from dataclasses import replace

from intraq_deploy.graph.ops import AveragePool2d, Clamp, GlobalAveragePool
from intraq_deploy.program.arithmetic import f32
from intraq_deploy.program.program import Grid
from intraq_deploy.quantization.network import FakeQuantNetwork


def grid_of(network: FakeQuantNetwork, name: str) -> Grid | None:
    """The grid of the tensor `name`, its bounds narrowed to the codes that can occur; None if it is float.

    A ReLU-like function clip(x, low, high) in front of a quantizer Q becomes the bounds Q(low) and Q(high): Q is
    monotone, so this is exact for every scale. A mean lies between its input's least and greatest value.
    """
    quantizer = network.quantizer(name)
    if quantizer is None:
        return None
    owner = network.placement.grid(name)
    assert owner is not None
    grid = Grid(float(quantizer.scale.detach()), quantizer.spec.bits, *quantizer.bounds())
    node = network.graph[owner]
    activation = node.op if isinstance(node.op, Clamp) else node.activation
    if activation is not None:
        narrowed = _narrowed(grid, activation.low, activation.high)
        # What moves data may pad with zeros, which need not be among what the activation lets through.
        return narrowed if name == owner else _with_zero(narrowed)
    if isinstance(node.op, GlobalAveragePool | AveragePool2d):
        source = grid_of(network, node.inputs[0])
        if source is not None:
            return _narrowed(grid, source.scale * source.code_min, source.scale * source.code_max)
    return grid


def _with_zero(grid: Grid) -> Grid:
    return replace(grid, code_min=min(grid.code_min, 0), code_max=max(grid.code_max, 0))


def _narrowed(grid: Grid, low: float, high: float) -> Grid:
    """The grid for values between low and high only."""

    def code(bound: float, unbounded: int) -> int:
        if math.isinf(bound):
            return unbounded
        # round() is half to even, and float32 division is what the quantizer does
        return min(max(round(f32(f32(bound) / grid.scale)), grid.code_min), grid.code_max)

    return replace(grid, code_min=code(low, grid.code_min), code_max=code(high, grid.code_max))
