"""Cross-layer equalisation: channels with a small range get a larger share of their tensor's codes.

After Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019). A layer A with
a batch norm makes y, which only layers B read. For any s_c > 0,

    gamma_c, beta_c of A  ->  s_c gamma_c, s_c beta_c            W_oc of B  ->  W_oc / s_c

is the same float network. Behind a ReLU this is because s relu(y) = relu(s y); min(max(y, 0), 6) becomes
min(max(s y, 0), 6 s), a bound per channel (`Weights.ceiling`) that the float network keeps.

**What is gained and lost.** Activations have one step per tensor, proportional to R = max_c s_c r_c with r_c the range
of channel c; weights have one per output channel. So A's codes do not change, whatever s is (the batch norm lies in
their scale), and neither do those of a B that reads one channel per output (depthwise): there

    s_c = R / r_c                                                                           every channel has range R

Where B sums over channels, its error has two parts, in units of B's own scales: rounding y gives
R^2 sum_c (w_c / s_c)^2 with w_c^2 = sum_o (W_oc / max_c' |W_oc'|)^2, and rounding W gives sum_c (s_c r_c)^2. Their sum
is least, however much each of them counts, at

    s_c = k sqrt(w_c / r_c)                                                                     k: R stays what it was

The paper's form is the same with its r and w. It balances the ranges of two weights; here they are an activation's and
a weight's, as these are what has one step. An edge does not depend on another one's s: one pass is enough.

**Ranges.** Behind a batch norm a channel has mean beta and deviation |gamma|: its values end at beta + n |gamma|, or at
6; without an activation, |beta| + n |gamma|. A layer without a batch norm says nothing of its range and stays as it is.

**Deviations from the paper.** (1) n = 6 instead of 3. The quantized network keeps the one bound 6 behind a ReLU6, so
that n is where channels with s > 1 are cut for good: with n = 3 that alone changed MobileNetV1's logits on synthetic
images by 25 % of their energy, with n = 6 by 0.5 %. (2) Behind a bound, s >= 1: the network's bound 6 is never above
the float one's 6 s, so it clips, as the range of a quantizer does, and never lets more pass. (3) 1/8 <= s <= 8, and
s = 1 for a channel that is zero, or below half a step of 8 bits at any such s.

s is not rounded to powers of two, which would keep the float network bit by bit: of MobileNetV1's, EfficientNet-Lite0's
and ResNet-20's factors 99 % lie between 1/2 and 2. Logits change by float32's rounding, 2e-6 of the largest.

**What it is worth** before training: nothing that could be told from chance on these three networks, whose ranges are
much alike (84 % of MobileNetV1's factors are 1). Relative squared error of the logits at W8A4, one seed, n chosen on
the synthetic images: MobileNetV1 0.75 .685 -> .684 (192 real images: .481 -> .478), EfficientNet-Lite0 .147 -> .142
(.217 -> .230), ResNet-20 .061 -> .056 (.035 -> .036). At W4A4 ResNet-20 .188 -> .182 (.111 -> .108); the others are
lost before training, with it or without. Where random networks' ranges differ by 30, the error falls to .04 .. .44 of
what it was (tests).
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intraq_deploy.graph.graph import Graph, Node, Weights
from intraq_deploy.graph.ops import AVERAGES, HAS_WEIGHT, Conv2d, Flatten, MaxPool2d, Op, Pad

DEVIATIONS = 6.0
"""The number n of |gamma| from beta at which a channel's values end."""
LIMIT = 8.0
"""The greatest s; the least is 1 / LIMIT, or 1 behind a bound."""
_DEAD = 1 / (2 * 255 * LIMIT)
"""A share of R: a smaller range is below half a step of 8 bits at any s."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """A layer that reads the channels of a tensor."""

    node: Node
    values: int
    """Values of each channel, next to each other in one dimension: more than one behind a Flatten."""

    def by_channel(self, weights: Weights) -> Tensor:
        """The weight as [groups, outputs of a group, channels of a group, weights per channel]."""
        weight = weights.weight
        groups = self.node.op.groups if isinstance(self.node.op, Conv2d) else 1
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1] // self.values, -1)


def equalize(graph: Graph) -> Graph:
    """Moves ranges between the channels of consecutive layers, and leaves the float network the same (equations above).

    graph: with float weights, which stay as they are. What cannot be equalised shares its weights with the result.
    """
    weights = dict(graph.weights)
    for node in graph.layers():
        readers = _readers(graph, node.name)
        ranges = _ranges(node, weights[node.name])
        if ranges is None or not readers:
            continue
        factors = _factors(ranges, _column_norms(readers, weights), bounded=_is_bounded(node))
        if bool((factors == 1).all()):
            continue
        weights[node.name] = _multiplied(node, weights[node.name], factors)
        for reader in readers:
            weights[reader.node.name] = _divided(reader, weights[reader.node.name], factors)
    return replace(graph, weights=weights)


def _readers(graph: Graph, name: str, values: int = 1) -> list[_Reader]:
    """The layers that read the tensor, directly or through what keeps channels apart; none if anything else does."""
    found: list[_Reader] = []
    for node in graph.consumers(name):
        if isinstance(node.op, HAS_WEIGHT):
            found.append(_Reader(node, values))
            continue
        pixels = math.prod(graph[name].shape[1:]) if isinstance(node.op, Flatten) else 1
        behind = _readers(graph, node.name, values * pixels) if _keeps_channels(node.op) else []
        if not behind:
            return []
        found += behind
    return found


def _keeps_channels(op: Op) -> bool:
    """Whether a channel of the output, or its share of it, comes from that of the input and is multiplied as it is."""
    if isinstance(op, Pad):
        return op.before[0] == op.after[0] == 0
    return isinstance(op, (MaxPool2d, Flatten, *AVERAGES))


def _is_bounded(node: Node) -> bool:
    return node.activation is not None and math.isfinite(node.activation.high)


def _ranges(node: Node, weights: Weights) -> Tensor | None:
    """The range r, the greatest |value| of each channel, float32 [C].

    None where it is not known, and for an activation whose values cannot be multiplied.
    """
    norm, activation = weights.batch_norm, node.activation
    if norm is None or (activation is not None and (activation.low != 0 or activation.high <= 0)):
        return None
    deviation = DEVIATIONS * norm.gamma.abs()
    if activation is None:
        return norm.beta.abs() + deviation
    return (norm.beta + deviation).clamp(0, activation.high)


def _column_norms(readers: list[_Reader], weights: dict[str, Weights]) -> Tensor | None:
    """The norms w, float32 [C], over all readers that sum over channels; None if there is none."""
    squares = []
    for reader in readers:
        weight = reader.by_channel(weights[reader.node.name])
        if weight.shape[2] > 1:
            largest = weight.abs().amax((2, 3), keepdim=True)
            relative = weight / torch.where(largest > 0, largest, 1)
            squares.append(relative.square().sum((1, 3)).flatten())
    return torch.stack(squares).sum(0).sqrt() if squares else None


def _factors(ranges: Tensor, columns: Tensor | None, *, bounded: bool) -> Tensor:
    """The factors s, float32 [C]. ranges: r, columns: w, or None where the readers' weights do not mind."""
    largest = ranges.max()
    alive = ranges > _DEAD * largest
    one = torch.ones_like(ranges)
    if columns is not None:
        alive &= columns > 0
    if not bool(alive.any()):
        return one
    wanted = one if columns is None else (columns * ranges).sqrt()
    share = torch.where(alive, wanted, 0) / wanted[alive].max()  # s r / R
    factors = largest * share / torch.where(alive, ranges, 1)
    return torch.where(alive, factors.clamp(1 if bounded else 1 / LIMIT, LIMIT), one)


def _multiplied(node: Node, weights: Weights, factors: Tensor) -> Weights:
    """The layer with its channels, behind its batch norm, multiplied."""
    norm = weights.batch_norm
    assert norm is not None
    scaled = replace(norm, gamma=norm.gamma * factors, beta=norm.beta * factors)
    if not _is_bounded(node):
        return replace(weights, batch_norm=scaled)
    assert node.activation is not None
    ceiling = torch.full_like(factors, node.activation.high) if weights.ceiling is None else weights.ceiling
    return replace(weights, batch_norm=scaled, ceiling=ceiling * factors)


def _divided(reader: _Reader, weights: Weights, factors: Tensor) -> Weights:
    """The reader with its weights divided, channel by channel of its input."""
    by_channel = reader.by_channel(weights)
    groups, _, channels, _ = by_channel.shape
    divided = by_channel / factors.reshape(groups, 1, channels, 1)
    return replace(weights, weight=divided.reshape(weights.weight.shape))
