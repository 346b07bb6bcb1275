"""The last step of training: grids that every runtime computes alike.

Settling changes a fake-quant module in place, in execution order, by the least that makes its integers unambiguous:

* a **dead channel** (gamma near zero) has so fine an accumulator that its bias leaves 24 bits: its batch norm is folded
  into its weights and its scale raised until the bias fits;
* the output scale of a **sum** or a **mean** is nudged until all forms in which runtimes compute it agree for every
  possible input (`arithmetic`);
* the output scale of a **layer** with frequent accumulators in the middle between two codes is nudged to have as few as
  can be: integers round them alike everywhere, but training's float sums do not.

A nudge is at most 1e-4 of the scale. Evaluate after settling, not before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intraq_deploy.errors import FreezeError
from intraq_deploy.graph.graph import Node
from intraq_deploy.graph.ops import Add, Conv2d, GlobalAveragePool, Linear
from intraq_deploy.program import arithmetic
from intraq_deploy.program.grids import grid_of
from intraq_deploy.program.program import Grid
from intraq_deploy.quantization.network import FakeQuantNetwork, QuantizedLayer
from intraq_deploy.quantization.placement import is_integer
from intraq_deploy.quantization.quantizer import LearnedWeightQuantizer

LARGEST_BIAS = 1 << 24
"""Integers below it are exact in float32, in which some runtimes hold the bias."""
LARGEST_NUDGE = 1e-4
SMALLEST_SCALE = 1e-20
"""Of a channel with its batch norm in it: keeps products with it normal float32 numbers."""
_NUDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What settling changed: for the report."""

    name: str
    what: str


def settle(network: FakeQuantNetwork) -> list[Adjustment]:
    """Settles `network`, on the CPU, in place. Raises FreezeError where no nudge within bounds helps."""
    adjustments: list[Adjustment] = []
    with torch.no_grad():
        for node in network.graph.nodes:
            if is_integer(network.graph, node, network.placement):
                adjustments += _settle_node(network, node)
    return adjustments


def unsettled(network: FakeQuantNetwork) -> list[str]:
    """What is not settled, one sentence each: empty after `settle`."""
    problems = []
    with torch.no_grad():
        for node in network.graph.nodes:
            if not is_integer(network.graph, node, network.placement):
                continue
            if isinstance(node.op, Conv2d | Linear):
                if len(channels := _dead_channels(network, node)):
                    problems.append(f"{node.name}: the bias of {len(channels)} channels leaves 24 bits")
            elif (ambiguous := _ambiguity(network, node)) is not None and (
                count := ambiguous(_grid(network, node.name))
            ):
                problems.append(f"{node.name}: {count} ambiguous inputs")
    return problems


def _settle_node(network: FakeQuantNetwork, node: Node) -> Iterator[Adjustment]:
    if isinstance(node.op, Conv2d | Linear):
        dead = _dead_channels(network, node)
        if len(dead):
            _revive(network, node, dead)
            channels = ", ".join(str(int(channel)) for channel in dead[:8]) + (", ..." if len(dead) > 8 else "")
            yield Adjustment(node.name, f"raised the scale of {len(dead)} dead channels ({channels})")
    ambiguous = _ambiguity(network, node)
    if ambiguous is None:
        return
    grid = _grid(network, node.name)
    before = ambiguous(grid)
    if not before:
        return
    quantizer = network.quantizer(node.name)
    assert quantizer is not None
    scale, left = _nudge(grid, ambiguous)
    if left and not isinstance(node.op, Conv2d | Linear):
        raise FreezeError(
            f"No scale within {LARGEST_NUDGE:.0e} of {grid.scale:.6g} makes {node.name} unambiguous: runtimes would "
            "differ. Train for a few more steps, or use another seed."
        )
    if scale == grid.scale:
        return
    quantizer.scale.fill_(scale)
    what = f"nudged its scale by {scale / grid.scale - 1:+.1e}: {before} ambiguous inputs, now {left}"
    yield Adjustment(node.name, what)


def _grid(network: FakeQuantNetwork, name: str) -> Grid:
    grid = grid_of(network, name)
    assert grid is not None
    return grid


def _ambiguity(network: FakeQuantNetwork, node: Node) -> Callable[[Grid], int] | None:
    """Counts the ambiguous inputs of a node for a candidate output grid; None where no grid can be ambiguous."""
    if network.placement.grid(node.name) != node.name:
        return None
    inputs = [_grid(network, name) for name in node.inputs]
    match node.op:
        case Add():
            grid_a, grid_b = inputs
            return lambda grid: arithmetic.add_disagreements(grid_a, grid_b, grid)
        case GlobalAveragePool():
            height, width = network.graph[node.inputs[0]].shape[1:]
            return lambda grid: arithmetic.average_disagreements(height * width, inputs[0], grid)
        case Conv2d() | Linear():
            scale = network.layer(node.name).codes()[1]
            return lambda grid: _ties(arithmetic.multiplier(inputs[0].scale, scale, grid.scale), grid)
    return None


def _ties(multipliers: Tensor, grid: Grid) -> int:
    return int(arithmetic.ties_are_common(multipliers).sum()) + arithmetic.near_ties(multipliers, grid)


def _nudge(grid: Grid, ambiguous: Callable[[Grid], int]) -> tuple[float, int]:
    """The nearest scale, going outwards in steps of 1e-6, with the fewest ambiguous inputs, and how many it has."""
    best, least = grid.scale, ambiguous(grid)
    for step in range(1, round(LARGEST_NUDGE / _NUDGE) + 1):
        for signed in (step, -step):
            scale = arithmetic.f32(grid.scale * (1 + signed * _NUDGE))
            count = ambiguous(replace(grid, scale=scale))
            if count < least:
                best, least = scale, count
            if not least:
                return best, least
    return best, least


def _dead_channels(network: FakeQuantNetwork, node: Node) -> Tensor:
    """Channels whose bias leaves 24 bits or whose scale vanishes, int64 [n]."""
    layer, source = network.layer(node.name), network.quantizer(node.inputs[0])
    assert source is not None
    scale = layer.codes()[1]
    step = arithmetic.accumulator_scale(float(source.scale), scale)
    dead = (scale < SMALLEST_SCALE) | (layer.bias().abs() >= LARGEST_BIAS * step)
    return torch.nonzero(dead).flatten()


def _revive(network: FakeQuantNetwork, node: Node, channels: Tensor) -> None:
    """Folds the channels' batch norm into their weights and raises their scales to half the bias limit."""
    layer, source = network.layer(node.name), network.quantizer(node.inputs[0])
    assert source is not None
    bias = layer.bias()[channels]
    _fold(layer, channels)
    scale = bias.abs() / (float(source.scale) * (LARGEST_BIAS / 2))
    quantizer = layer.quantizer
    values = quantizer.scale if isinstance(quantizer, LearnedWeightQuantizer) else quantizer.floor
    values[channels] = scale.clamp(min=SMALLEST_SCALE)


def _fold(layer: QuantizedLayer, channels: Tensor) -> None:
    """Rewrites channels so that gamma / sigma is 1 and the bias is beta. Changes no value."""
    gain, bias = layer.gain()[channels], layer.bias()[channels]
    layer.weight[channels] *= gain.reshape(-1, *[1] * (layer.weight.dim() - 1))
    layer.gamma[channels] = layer.deviation[channels]
    layer.mean[channels] = 0
    layer.beta[channels] = bias
