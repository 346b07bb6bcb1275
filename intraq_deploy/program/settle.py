"""Settling, the last step of training: it makes grids that every runtime computes alike.

Settling changes a fake-quant module in place, in execution order, by the least that makes its integers unambiguous:

* a **dead channel** (gamma near zero) has so fine an accumulator that its bias leaves 24 bits: its batch norm is folded
  into its weights and its scale raised until the bias fits;
* the output scale of a **sum, product, mean or function** is nudged until all forms in which runtimes compute it agree
  for every possible input (`arithmetic`);
* the output scale of an 8-bit **HardSigmoid** is chosen so that 1/2 is a code: the function is then a change of scale
  and a shift of codes, between bounds;
* the output scale of a **layer** with frequent accumulators in the middle between two codes is nudged to have as few as
  can be: integers round them alike everywhere, but training's float sums do not.

Tensors that are concatenated share one scale: it is nudged for all of them. Where that of an output is also that of an
input, their ratio is what it is. Then a scale of few binary digits makes ties exact in every form, or the scale of
another input is nudged. A nudge is the smallest that helps, at most 1e-3 of the scale; a HardSigmoid's change, below
2 % at 8 bits. Evaluate after settling, not before.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from intraq_deploy.errors import FreezeError
from intraq_deploy.graph.graph import Node
from intraq_deploy.graph.ops import Add, AveragePool2d, Conv2d, GlobalAveragePool, Linear, Multiply, Unary
from intraq_deploy.program import arithmetic
from intraq_deploy.program.grids import grid_of
from intraq_deploy.program.limits import LARGEST_BIAS
from intraq_deploy.program.program import Grid
from intraq_deploy.quantization.network import FakeQuantNetwork, QuantizedLayer
from intraq_deploy.quantization.placement import is_integer
from intraq_deploy.quantization.quantizer import ActivationQuantizer, LearnedWeightQuantizer

SMALLEST_SCALE = 1e-20
"""The least scale of a channel with its batch norm in it: products with it stay normal float32 numbers."""
_NUDGES = [1e-6 * step for step in range(1, 101)] + [1e-5 * step for step in range(11, 101)]
"""Changes of a scale that are tried, up and down, the smallest first."""
LARGEST_NUDGE = _NUDGES[-1]
_USUAL_NUDGE = 1e-4
_SHORT = (14, 12, 10)
"""Binary digits of scales that are tried where no nudge helps, the nearest first."""
_FINE = 32
"""Codes from 0 to 1/2: with fewer, making 1/2 a code would change a scale by more than 3 %."""
_SWEEPS = 8
"""A nudge can unsettle another node that reads the tensor, or shares its grid."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One change that settling made, for the report."""

    name: str
    what: str


def settle(network: FakeQuantNetwork) -> list[Adjustment]:
    """Settles `network`, which is on the CPU, in place. Raises FreezeError where no nudge within bounds helps."""
    adjustments: list[Adjustment] = []
    with torch.no_grad():
        for _ in range(_SWEEPS):
            for node in _integer_nodes(network):
                adjustments += _settle_node(network, node)
            problems = unsettled(network)
            if not problems:
                return adjustments
    raise FreezeError(
        f"No scales within {LARGEST_NUDGE:.0e} of the trained ones make the network unambiguous ({problems[0]}): "
        "runtimes would differ. Train for a few more steps, or use another seed."
    )


def unsettled(network: FakeQuantNetwork) -> list[str]:
    """Lists all that is not settled, one sentence each: nothing after `settle`."""
    problems = []
    with torch.no_grad():
        for node in _integer_nodes(network):
            if isinstance(node.op, Conv2d | Linear):
                if len(channels := _dead_channels(network, node)):
                    problems.append(f"{node.name}: the bias of {len(channels)} channels leaves 24 bits")
            elif (ambiguous := _ambiguity(network, node, node.name)) is not None and (
                count := ambiguous(_grid(network, node.name).scale)
            ):
                problems.append(f"{node.name}: {count} ambiguous inputs")
    return problems


def _integer_nodes(network: FakeQuantNetwork) -> list[Node]:
    return [node for node in network.graph.nodes if is_integer(network.graph, node, network.placement)]


def _settle_node(network: FakeQuantNetwork, node: Node) -> Iterator[Adjustment]:
    if isinstance(node.op, Conv2d | Linear):
        dead = _dead_channels(network, node)
        if len(dead):
            _revive(network, node, dead)
            channels = ", ".join(str(int(channel)) for channel in dead[:8]) + (", ..." if len(dead) > 8 else "")
            yield Adjustment(node.name, f"raised the scale of {len(dead)} dead channels ({channels})")
    quantizer = network.quantizer(node.name)
    if quantizer is None or network.placement.tensors[node.name].spec is None:
        return
    if isinstance(node.op, Unary) and node.op.function == "HardSigmoid":
        yield from _center(node, quantizer)
    yield from _settle_scale(network, node, node.name)
    # Where an input has the output's grid, their ratio is what it is, and the other input's scale decides.
    for name in node.inputs:
        if name == network.graph.input.name or _shares(network, node.name, name):
            continue
        if not _must_not(network, node):
            break
        yield from _settle_scale(network, node, name)


def _settle_scale(network: FakeQuantNetwork, node: Node, name: str) -> Iterator[Adjustment]:
    """Nudges the scale of the tensor `name`, the node's or one that it reads, for the node and those before it that
    share the tensor's grid."""
    quantizer = network.quantizer(name)
    assert quantizer is not None
    ambiguities = _ambiguities(network, node, name)
    scale = float(quantizer.scale)
    before = _count(ambiguities, scale)
    if not any(before):
        return
    nudged, left = _nudge(scale, before, ambiguities)
    if nudged == scale:
        return
    quantizer.scale.fill_(nudged)
    what = f"nudged its scale by {nudged / scale - 1:+.1e}: {sum(before)} ambiguous inputs, now {sum(left)}"
    yield Adjustment(name, what)


def _shares(network: FakeQuantNetwork, name: str, other: str) -> bool:
    return network.placement.grid(name) == network.placement.grid(other)


def _must_not(network: FakeQuantNetwork, node: Node) -> bool:
    """Whether the node has ambiguous inputs that runtimes compute differently."""
    ambiguous = None if isinstance(node.op, Conv2d | Linear) else _ambiguity(network, node, node.name)
    return ambiguous is not None and ambiguous(_grid(network, node.name).scale) > 0


def _center(node: Node, quantizer: ActivationQuantizer) -> Iterator[Adjustment]:
    """Makes 1/2, in the middle of a HardSigmoid, a code. A nudge leaves it near enough to stay as it is."""
    scale = float(quantizer.scale)
    middle = 0.5 / scale
    if middle < _FINE or abs(middle - round(middle)) <= LARGEST_NUDGE * middle:
        return
    quantizer.scale.fill_(0.5 / math.floor(middle))
    yield Adjustment(node.name, f"changed its scale by {float(quantizer.scale) / scale - 1:+.1e}: 1/2 is a code")


def _grid(network: FakeQuantNetwork, name: str) -> Grid:
    grid = grid_of(network, name)
    assert grid is not None
    return grid


@dataclass(frozen=True, slots=True)
class _Ambiguity:
    """A function that counts a node's ambiguous inputs for a candidate of its grid's scale."""

    count: Callable[[float], int]
    tolerable: bool
    """Whether all runtimes compute the node alike in any case, and only training's float sums do not."""


def _ambiguities(network: FakeQuantNetwork, node: Node, tensor: str) -> list[_Ambiguity]:
    """The ambiguities that the scale of `tensor` decides on: the node's, and of those before it that share its grid."""
    owner = network.placement.grid(tensor)
    assert owner is not None
    found = []
    for name in dict.fromkeys((*network.placement.sharing(owner), node.name)):
        other = network.graph[name]
        ambiguous = _ambiguity(network, other, tensor)
        if ambiguous is not None:
            found.append(_Ambiguity(ambiguous, isinstance(other.op, Conv2d | Linear)))
        if name == node.name:
            break
    return found


def _ambiguity(network: FakeQuantNetwork, node: Node, tensor: str) -> Callable[[float], int] | None:
    """Counts the ambiguous inputs of a node for a candidate of the scale that `tensor` has, and all that share its
    grid; None where no scale can be ambiguous."""
    if network.placement.tensors[node.name].spec is None or not is_integer(network.graph, node, network.placement):
        return None
    count = _counting(network, node)
    if count is None:
        return None
    grids = {name: _grid(network, name) for name in (*node.inputs, node.name)}
    sharing = {name for name in grids if _shares(network, name, tensor)}

    def at(scale: float) -> int:
        tried = {name: replace(grid, scale=scale) if name in sharing else grid for name, grid in grids.items()}
        return count(*(tried[name] for name in (*node.inputs, node.name)))

    return at


def _counting(network: FakeQuantNetwork, node: Node) -> Callable[..., int] | None:
    """Counts the ambiguous inputs of a node, from the grids of its inputs and its output; None as of `_ambiguity`."""
    match node.op:
        case Add():
            return arithmetic.add_disagreements
        case Multiply():
            return arithmetic.multiply_disagreements
        case Unary():
            return partial(arithmetic.unary_disagreements, node.op)
        case AveragePool2d():
            return partial(arithmetic.average_disagreements, node.op.kernel[0] * node.op.kernel[1])
        case GlobalAveragePool():
            height, width = network.graph[node.inputs[0]].shape[1:]
            return partial(arithmetic.average_disagreements, height * width)
        case Conv2d() | Linear():
            scale = network.layer(node.name).codes()[1]
            return lambda x, y: _ties(arithmetic.multiplier(x.scale, scale, y.scale), y)
    return None


def _ties(multipliers: Tensor, grid: Grid) -> int:
    return int(arithmetic.ties_are_common(multipliers).sum()) + arithmetic.near_ties(multipliers, grid)


def _count(ambiguities: list[_Ambiguity], scale: float) -> tuple[int, int]:
    """Ambiguous inputs at this scale: those that must not be, and those that better were not."""
    counts = [(each.tolerable, each.count(scale)) for each in ambiguities]
    return sum(n for tolerable, n in counts if not tolerable), sum(n for tolerable, n in counts if tolerable)


def _nudge(scale: float, before: tuple[int, int], ambiguities: list[_Ambiguity]) -> tuple[float, tuple[int, int]]:
    """The nearest scale with the fewest ambiguous inputs, and how many it has."""
    best, least = scale, before
    for nudge in _NUDGES:
        if nudge > _USUAL_NUDGE and not least[0]:  # what is left is tolerable
            break
        for signed in (nudge, -nudge):
            candidate = arithmetic.f32(scale * (1 + signed))
            count = _count(ambiguities, candidate)
            if count < least:
                best, least = candidate, count
            if not any(least):
                return best, least
    for bits in _SHORT if least[0] else ():
        candidate = _shortened(scale, bits)
        count = _count(ambiguities, candidate)
        if count < least:
            best, least = candidate, count
    return best, least


def _shortened(scale: float, bits: int) -> float:
    """The nearest number to the scale whose mantissa has so many bits: codes times it are exact in float32, and so is
    the mean of them that lies in the middle between two codes of the same grid, where no other nudge helps."""
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(round(math.ldexp(mantissa, bits)), exponent - bits)


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
