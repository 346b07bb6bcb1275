"""Cross-layer equalisation: channels that need a finer step get a larger share of their tensor's codes.

After Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019). A layer A
makes y, which only layers B read. For any s_c > 0,

    gamma_c, beta_c of A  ->  s_c gamma_c, s_c beta_c            W_oc of B  ->  W_oc / s_c

is the same float network (without a batch norm, A's weights and bias are multiplied). Behind a ReLU this is because
s relu(y) = relu(s y); min(max(y, 0), 6) becomes min(max(s y, 0), 6 s), a bound per channel (`Weights.ceiling`) that the
float network keeps. A's weights do not mind, as each of its channels has a step of its own.

The tensor has one step, so s_c says where channel c ends in the quantized network: at t_c = t / s_c, with t = max t_c,
or the bound if that is less. The tops t_c are those of the least error that is to be expected in what B makes:

    sum_c |W_c|^2 e_c(t_c)  +  sum_oc v_c / t_c^2 (k_o^2 / 12 L^2 + max(|W_oc| t_c - k_o, 0)^2)

* e_c: the mean square of what quantizing channel c up to t_c adds to it, on the images. Where t_c is above a bound of
  6, this counts what passes the bound, as the quantized network has one for all channels, in front of its codes.
* The second sum is the rounding of B's weights W / s, whose row o ends at k_o with L codes on each side. v_c: the
  variance of channel c that the other channels do not tell of, as compensated rounding has these make up for the rest.

Where B reads one channel per output (depthwise), rows have a step each and the second sum falls away: t_c is the top of
least squares of the channel alone. Else tops and k_o are found in turn, each by trying some.

**Deviations from the paper.** It balances the ranges of two weights; here the errors of B's weights and of what they
are multiplied with are weighed against each other, measured on images. 1/8 <= s <= 8. s = 1 for a channel that is zero
on the images.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intraq_deploy.graph.execute import apply_layer, clamp, evaluate_float, walk
from intraq_deploy.graph.graph import Graph, Node, Weights
from intraq_deploy.graph.ops import AVERAGES, HAS_WEIGHT, Conv2d, Flatten, MaxPool2d, Op, Pad
from intraq_deploy.quantization.placement import Placement
from intraq_deploy.quantization.quantizer import by_row
from intraq_deploy.quantization.spec import code_bounds

LIMIT = 8.0
"""The greatest s, and one over the least."""
_DEAD = 1e-3
"""A share of the largest channel's greatest value: a channel that stays below counts as zero."""
_IMAGES, _BATCH, _SAMPLES = 96, 32, 2048
"""The images that errors are measured on and the values of a channel per batch, at most."""
_FRACTIONS = torch.linspace(0.1, 1.0, 46)
"""Tops that are tried first, as fractions of a channel's largest value."""
_MULTIPLES = torch.logspace(-2, 3, 41, base=2)
"""Tops that are tried then, as multiples of the one of least squares."""
_ENDS = torch.linspace(0.3, 1.0, 29)
"""Ends of a row of weights that are tried, as fractions of its largest."""
_ROUNDS = 12
_WEIGHTS = 1 << 21
"""The weights of a reader that are looked at, at most: rows at equal distances."""
_RIDGE = 0.3
"""The share of the mean variance that is added to each channel's, before the other channels are asked of it."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """A layer that reads the channels of a tensor."""

    node: Node
    values: int
    """Values of each channel, next to each other in one dimension: more than one behind a Flatten."""

    def by_channel(self, weight: Tensor) -> Tensor:
        """The layer's weight as [groups G, outputs of a group R, channels of a group K, weights per channel]."""
        groups = self.node.op.groups if isinstance(self.node.op, Conv2d) else 1
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1] // self.values, -1)


def equalize(graph: Graph, placement: Placement, images: Tensor, seed: int) -> Graph:
    """Moves scales between the channels of consecutive layers, and leaves the float network the same (equations above).

    graph: with float weights, which stay as they are. placement: of the quantizers. images: float32 [N, C, H, W],
    normalised; values are drawn of them with `seed`. What cannot be equalised shares its weights with the result.
    """
    readers = {node.name: _readers(graph, node.name) for node in graph.layers() if _is_multiplied(node, placement)}
    readers = {name: found for name, found in readers.items() if found}
    weights = dict(graph.weights)
    for name, values in _values(graph, readers, images, seed).items():
        spec = placement.tensors[name].spec
        assert spec is not None
        kept = values.clamp(0, _bound(graph[name]))
        outputs = [_Outputs.of(reader, weights[reader.node.name], placement, kept) for reader in readers[name]]
        factors = _factors(values, kept, _bound(graph[name]), code_bounds(spec, 0)[1], outputs)
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


def _bound(node: Node) -> float:
    """The upper bound of the node's activation, infinity if it has none."""
    assert node.activation is not None
    return node.activation.high


def _values(graph: Graph, names: Collection[str], images: Tensor, seed: int) -> dict[str, Tensor]:
    """Values that layers make in front of their activations, in execution order, by channel: float32 [C, values]."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    generator = torch.Generator().manual_seed(seed)

    def evaluate(node: Node, inputs: Sequence[Tensor]) -> Tensor:
        if node.name not in names:
            return evaluate_float(graph, node, inputs)
        assert isinstance(node.op, HAS_WEIGHT)
        weights = graph.weights[node.name]
        y = apply_layer(node.op, inputs[0], *weights.folded())
        rows = y.movedim(1, 0).flatten(1)
        found[node.name].append(rows[:, torch.randint(rows.shape[1], (_SAMPLES,), generator=generator)])
        return clamp(y, node.activation, weights.ceiling)

    with torch.no_grad():
        for batch in images[:_IMAGES].split(_BATCH):
            walk(graph, batch, evaluate)
    return {name: torch.cat(parts, 1) for name, parts in found.items()}


def _factors(values: Tensor, kept: Tensor, bound: float, levels: int, readers: Sequence["_Outputs"]) -> Tensor:
    """The factors s, float32 [C]. values, kept: of each channel, in front of the activation and behind it, float32
    [C, values]. levels: the highest code."""
    largest = kept.amax(1)
    alive = largest > _DEAD * largest.max()
    if not bool(alive.any()):
        return torch.ones_like(largest)
    tried = largest.clamp(min=_DEAD * float(largest.max()))[:, None] * _FRACTIONS
    tops = _least(tried, _added(kept, kept, tried, levels))
    if any(reader.is_sum for reader in readers):
        tried = tops[:, None] * _MULTIPLES
        tops = _weighed(tried, _added(values, kept, tried, levels), tops, readers)
    tops = torch.where(alive, tops, 0)
    factors = (tops.max().clamp(max=bound) / tops).clamp(1 / LIMIT, LIMIT)
    return torch.where(alive, factors, 1)


def _added(values: Tensor, kept: Tensor, tried: Tensor, levels: int) -> Tensor:
    """The mean square of what quantization up to each top adds to a channel, float32 [C, tops]. tried: float32
    [C, tops]. values, kept: as of `_factors`."""
    steps = (tried / levels).split(1, 1)
    errors = [(values / s).round_().clamp_(0, levels).mul_(s).sub_(kept).square_().mean(1) for s in steps]
    return torch.stack(errors, 1)


def _least(tried: Tensor, errors: Tensor) -> Tensor:
    """Picks the one of the least error, [...], from those that are tried, [..., N]."""
    return tried.take_along_dim(errors.argmin(-1, keepdim=True), -1)[..., 0]


def _weighed(tried: Tensor, added: Tensor, tops: Tensor, readers: Sequence["_Outputs"]) -> Tensor:
    """The tops of the least error in what the readers make, float32 [C]. tried, added: tops, and what each adds,
    float32 [C, tops]. tops: to start with."""
    for _ in range(_ROUNDS):
        errors = added * torch.stack([reader.squares for reader in readers]).sum(0)[:, None]
        for reader in readers:
            if reader.is_sum:
                ends = reader.ends(tops)
                errors = errors + torch.stack([reader.rounding(top, ends) for top in tried.T], 1)
        before, tops = tops, _least(tried, errors)
        if torch.equal(tops, before):
            break
    return tops


@dataclass(frozen=True, slots=True)
class _Outputs:
    """The outputs of a reader, and the errors that tops leave in them, as shares of the outputs' variance."""

    weight: Tensor
    """|W| of the rows that are looked at, its batch norm folded in, float32 [G, R, K, weights per channel]."""
    squares: Tensor
    """|W_c|^2 of all rows, float32 [C]."""
    variance: Tensor
    """v, times all rows by those that are looked at, float32 [G, K]."""
    levels: int

    @staticmethod
    def of(reader: _Reader, weights: Weights, placement: Placement, kept: Tensor) -> "_Outputs":
        """kept: values of the channels, float32 [C, values]."""
        weight = reader.by_channel(weights.folded()[0])
        squares = weight.square().sum((1, 3))
        every = -(-weight.numel() // _WEIGHTS)
        groups, channels = squares.shape
        centred = (kept - kept.mean(1, keepdim=True)).reshape(groups, channels, -1).double()
        covariance = centred @ centred.mT / centred.shape[2]
        diagonal = covariance.diagonal(dim1=1, dim2=2)
        ridge = (_RIDGE * diagonal.mean(1, keepdim=True)).clamp(min=torch.finfo(kept.dtype).tiny).expand_as(diagonal)
        factor = torch.linalg.cholesky(covariance + torch.diag_embed(ridge))
        variance = (1 / torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2) - ridge).clamp(min=0).float()
        whole = (squares * diagonal.float()).sum().clamp(min=torch.finfo(kept.dtype).tiny)
        high = placement.layers[reader.node.name].weight.symmetric_range()[1]
        return _Outputs(weight[:, ::every].abs(), squares.flatten() / whole, every * variance / whole, high)

    @property
    def is_sum(self) -> bool:
        """Whether an output reads more than one channel."""
        return self.weight.shape[2] > 1

    def ends(self, tops: Tensor) -> Tensor:
        """Where each row of weights ends at the least error, float32 [G, R]. tops: float32 [C]."""
        scaled, weighed = self._at(tops)
        tried = scaled.amax((2, 3))[:, :, None] * _ENDS
        errors = [self._rounded(scaled, end).mul_(weighed).sum((2, 3)) for end in tried.unbind(2)]
        return _least(tried, torch.stack(errors, 2))

    def rounding(self, tops: Tensor, ends: Tensor) -> Tensor:
        """The error of rounding each channel's weights, float32 [C]. tops: float32 [C]. ends: float32 [G, R]."""
        scaled, weighed = self._at(tops)
        return self._rounded(scaled, ends).mul_(weighed).sum((1, 3)).flatten()

    def _at(self, tops: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of channels that end at `tops`, and how much the square of an error in each of them counts."""
        by_channel = tops.reshape(self.weight.shape[0], 1, -1, 1)
        return self.weight * by_channel, self.variance[:, None, :, None] / by_channel.square()

    def _rounded(self, scaled: Tensor, ends: Tensor) -> Tensor:
        """The squares of the errors that rows have which end at `ends`, of the shape of the weights."""
        ends = ends[:, :, None, None]
        return (scaled - ends).clamp_(min=0).square_().add_((ends / self.levels).square_() / 12)


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


def _multiplied(node: Node, weights: Weights, factors: Tensor) -> Weights:
    """The layer with its channels multiplied, behind its batch norm if it has one."""
    norm = weights.batch_norm
    if norm is not None:
        scaled = replace(weights, batch_norm=replace(norm, gamma=norm.gamma * factors, beta=norm.beta * factors))
    else:
        bias = None if weights.bias is None else weights.bias * factors
        scaled = replace(weights, weight=weights.weight * by_row(factors, weights.weight), bias=bias)
    if math.isinf(_bound(node)):
        return scaled
    ceiling = torch.full_like(factors, _bound(node)) if weights.ceiling is None else weights.ceiling
    return replace(scaled, ceiling=ceiling * factors)


def _divided(reader: _Reader, weights: Weights, factors: Tensor) -> Weights:
    """The reader with its weights divided, channel by channel of its input."""
    by_channel = reader.by_channel(weights.weight)
    groups, _, channels, _ = by_channel.shape
    divided = by_channel / factors.reshape(groups, 1, channels, 1)
    return replace(weights, weight=divided.reshape(weights.weight.shape))
