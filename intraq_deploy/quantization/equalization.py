"""Cross-layer equalisation: channels that need a finer step get a larger share of their tensor's codes.

After Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019). A layer A
makes y, which only layers B read. For any s_c > 0,

    gamma_c, beta_c of A  ->  s_c gamma_c, s_c beta_c            W_oc of B  ->  W_oc / s_c

is the same float network (without a batch norm, A's weights and bias are multiplied). Behind a ReLU this is because
s relu(y) = relu(s y); min(max(y, 0), 6) becomes min(max(s y, 0), 6 s), a bound per channel (`Weights.ceiling`) that the
float network keeps.

Activations have one step per tensor. With d_c the step of least squares of channel c alone, on the images,

    s_c = max_c' d_c' / d_c        1 <= s_c <= 8

gives every channel the step that it wants. A's weights do not mind, as each of its channels has a step of its own;
nor do those of a B that reads one channel per output (depthwise). Where B sums over channels, its weights of different
channels then differ more, and have one step: compensated rounding makes up for most of that (docs/accuracy.md), and it
is done where the tensor has no more bits than B's weights.

**Deviations from the paper.** It balances the ranges of two weights; here it is the steps of an activation's channels,
measured. Ranges say little: behind a ReLU6 nearly every channel reaches 6, and yet the best steps of 16 levels differ.
s >= 1, as the quantized network keeps the one bound 6 behind a ReLU6, never above the float one's 6 s: it clips, as the
range of a quantizer does, and never lets more pass. s = 1 for a channel that is zero on the images.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intraq_deploy.graph.execute import clamp, evaluate_float, walk
from intraq_deploy.graph.graph import Graph, Node, Weights
from intraq_deploy.graph.ops import AVERAGES, HAS_WEIGHT, Conv2d, Flatten, MaxPool2d, Op, Pad
from intraq_deploy.quantization.placement import Placement
from intraq_deploy.quantization.quantizer import by_row
from intraq_deploy.quantization.spec import code_bounds

LIMIT = 8.0
"""The greatest s."""
_DEAD = 1e-3
"""A share of the largest channel's greatest value: a channel that stays below counts as zero."""
_IMAGES, _BATCH, _SAMPLES = 96, 32, 2048
"""The images that steps are measured on and the values of a channel per batch, at most."""
_FRACTIONS = torch.linspace(0.1, 1.0, 46).tolist()
"""Steps that are tried, as fractions of the one that just holds the largest value."""


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


def equalize(graph: Graph, placement: Placement, images: Tensor, seed: int) -> Graph:
    """Moves scales between the channels of consecutive layers, and leaves the float network the same (equations above).

    graph: with float weights, which stay as they are. placement: of the quantizers. images: float32 [N, C, H, W],
    normalised; values are drawn of them with `seed`. What cannot be equalised shares its weights with the result.
    """
    readers = {node.name: _readers(graph, node.name) for node in graph.layers() if _is_multiplied(node, placement)}
    weights = dict(graph.weights)
    readers = {
        name: found
        for name, found in readers.items()
        if found and all(_gives_way(reader, weights, placement, name) for reader in found)
    }
    for name, values in _values(graph, readers, images, seed).items():
        spec = placement.tensors[name].spec
        assert spec is not None
        factors = _factors(values, code_bounds(spec, 0)[1])
        if bool((factors == 1).all()):
            continue
        weights[name] = _multiplied(graph[name], weights[name], factors)
        for reader in readers[name]:
            weights[reader.node.name] = _divided(reader, weights[reader.node.name], factors)
    return replace(graph, weights=weights)


def _is_multiplied(node: Node, placement: Placement) -> bool:
    """Whether the layer's tensor is quantized, and its values can be multiplied: those behind ReLU and its like."""
    activation = node.activation
    homogeneous = activation is not None and activation.low == 0 and activation.high > 0
    return homogeneous and placement.tensors[node.name].spec is not None


def _gives_way(reader: _Reader, weights: Mapping[str, Weights], placement: Placement, name: str) -> bool:
    """Whether the reader's weights lose nothing by it, or no more than the tensor's few bits gain."""
    spec = placement.tensors[name].spec
    assert spec is not None
    alone = reader.by_channel(weights[reader.node.name]).shape[2] == 1
    return alone or placement.layers[reader.node.name].weight.bits >= spec.bits


def _values(graph: Graph, names: Collection[str], images: Tensor, seed: int) -> dict[str, Tensor]:
    """Values of the tensors `names` in the float network, in their order, by channel: float32 [C, values]."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    generator = torch.Generator().manual_seed(seed)

    def evaluate(node: Node, inputs: Sequence[Tensor]) -> Tensor:
        value = clamp(evaluate_float(graph, node, inputs), node.activation)
        if node.name in names:
            rows = value.movedim(1, 0).flatten(1)
            found[node.name].append(rows[:, torch.randint(rows.shape[1], (_SAMPLES,), generator=generator)])
        return value

    with torch.no_grad():
        for batch in images[:_IMAGES].split(_BATCH):
            walk(graph, batch, evaluate)
    return {name: torch.cat(parts, 1) for name, parts in found.items()}


def _factors(values: Tensor, levels: int) -> Tensor:
    """The factors s, float32 [C]. values: of each channel, none below 0, float32 [C, values]. levels: the highest
    code."""
    top = values.amax(1)
    alive = top > _DEAD * top.max()
    if not bool(alive.any()):
        return torch.ones_like(top)
    steps = _steps(values, top.clamp(min=torch.finfo(top.dtype).tiny) / levels, levels)
    factors = (steps[alive].max() / steps).clamp(1, LIMIT)
    return torch.where(alive, factors, 1)


def _steps(values: Tensor, full: Tensor, levels: int) -> Tensor:
    """The step of least squares of each channel, float32 [C]. full: the one that just holds the largest value."""
    best, least = full, torch.full_like(full, float("inf"))
    for fraction in _FRACTIONS:
        step = (full * fraction)[:, None]
        error = (values / step).round_().clamp_(0, levels).mul_(step).sub_(values).square_().sum(1)
        better = error < least
        best, least = torch.where(better, step[:, 0], best), torch.where(better, error, least)
    return best


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


def _multiplied(node: Node, weights: Weights, factors: Tensor) -> Weights:
    """The layer with its channels multiplied, behind its batch norm if it has one."""
    norm = weights.batch_norm
    if norm is not None:
        scaled = replace(weights, batch_norm=replace(norm, gamma=norm.gamma * factors, beta=norm.beta * factors))
    else:
        bias = None if weights.bias is None else weights.bias * factors
        scaled = replace(weights, weight=weights.weight * by_row(factors, weights.weight), bias=bias)
    if not _is_bounded(node):
        return scaled
    assert node.activation is not None
    ceiling = torch.full_like(factors, node.activation.high) if weights.ceiling is None else weights.ceiling
    return replace(scaled, ceiling=ceiling * factors)


def _divided(reader: _Reader, weights: Weights, factors: Tensor) -> Weights:
    """The reader with its weights divided, channel by channel of its input."""
    by_channel = reader.by_channel(weights)
    groups, _, channels, _ = by_channel.shape
    divided = by_channel / factors.reshape(groups, 1, channels, 1)
    return replace(weights, weight=divided.reshape(weights.weight.shape))
