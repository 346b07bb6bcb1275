"""Ranges from which scales start: of activations from images, of weights from the weights. No label is read.

Two ways, both per tensor (activations) or per output channel (weights):

* **MSE search**: the fraction of the full range that minimises sum |x - fq(x)|^2.4 over a grid of fractions (the
  exponent of GENIE, Jeon et al., CVPR 2023, weighs rare large errors more than a plain square).
* **Averaged min-max**: m_t = 0.9 m_{t-1} + 0.1 batch minimum (maximum likewise), divided by 1 - 0.9^t. This is the
  standard correction for an average that starts at zero (Adam, Kingma and Ba 2015). IntraQ's released code applies a
  recursive one that overshoots by orders of magnitude before it settles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intraq_deploy.graph.execute import clamp, evaluate_float, walk
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.quantization.placement import Placement
from intraq_deploy.quantization.quantizer import SMALLEST_SCALE
from intraq_deploy.quantization.scheme import Ranges
from intraq_deploy.quantization.spec import QuantSpec, code_bounds

EXPONENT = 2.4
_FRACTIONS = torch.linspace(0.02, 1.0, 99)
_AVERAGE = 0.9
_BATCH = 64
_CACHED = 1 << 16
"""The number of weights that are searched at a time."""
_SAMPLES, _ALL_SAMPLES = 1 << 17, 1 << 22
"""Values kept for the search, at most: of a tensor, and of all together."""


@dataclass(frozen=True, slots=True)
class Range:
    """A scale and zero-point to start from."""

    scale: float
    zero_point: int


def samples_of(placement: Placement) -> int:
    """Returns of how many values, at most and in all tensors together, the ranges are searched for."""
    tensors = len(placement.quantized())
    return tensors * min(_SAMPLES, _ALL_SAMPLES // max(1, tensors))


def calibrate(graph: Graph, placement: Placement, images: Tensor, method: Ranges, seed: int) -> dict[str, Range]:
    """Finds the range of every quantized tensor, from the float network's values for `images`, float32 [N, C, H, W].

    "learned" searches for the least error over sampled values (drawn with `seed`), "min-max" averages batch extremes.
    """
    tensors = placement.quantized()
    samples = samples_of(placement) // max(1, len(tensors))
    observers = {
        name: _Samples(seed + index, len(images), samples) if method == "learned" else _Extremes()
        for index, name in enumerate(tensors)
    }

    def evaluate(node: Node, inputs: Sequence[Tensor]) -> Tensor:
        # The quantized network clamps so, also where the float network has a ceiling per channel.
        value = clamp(evaluate_float(graph, node, inputs), node.activation)
        if placement.tensors[node.name].spec is not None:
            grid = placement.grid(node.name)
            assert grid is not None
            observers[grid].see(value)
        return value

    with torch.no_grad():
        for batch in images.split(_BATCH):
            walk(graph, batch, evaluate)
            for observer in observers.values():
                observer.end_batch()
    return {name: _range(observer, placement, name) for name, observer in observers.items()}


def _range(observer: "_Samples | _Extremes", placement: Placement, name: str) -> Range:
    spec = placement.tensors[name].spec
    assert spec is not None
    if isinstance(observer, _Samples):
        return search(observer.values(), spec)
    return range_of(*observer.bounds(), spec)


class _Samples:
    """An equal random share of every batch's values."""

    def __init__(self, seed: int, images: int, count: int) -> None:
        self._count = count
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: list[Tensor] = []
        self._batches = -(-images // _BATCH)

    def see(self, value: Tensor) -> None:
        flat = value.reshape(-1).cpu()
        count = self._count // self._batches
        if flat.numel() > count:
            index = torch.randint(flat.numel(), (count,), generator=self._generator)
            # The extremes are always among the samples: the search starts from the full range.
            flat = torch.cat((flat[index], torch.stack(torch.aminmax(flat))))
        self._kept.append(flat)

    def end_batch(self) -> None: ...

    def values(self) -> Tensor:
        return torch.cat(self._kept)


class _Extremes:
    """The averaged minimum and maximum. Parts of a concatenation share them, so that a batch may bring several."""

    def __init__(self) -> None:
        self._low = self._high = 0.0
        self._batches = 0
        self._seen: list[Tensor] = []

    def see(self, value: Tensor) -> None:
        self._seen.append(torch.stack(torch.aminmax(value)))

    def end_batch(self) -> None:
        low, high = torch.aminmax(torch.stack(self._seen))
        self._low = _AVERAGE * self._low + (1 - _AVERAGE) * float(low)
        self._high = _AVERAGE * self._high + (1 - _AVERAGE) * float(high)
        self._batches += 1
        self._seen.clear()

    def bounds(self) -> tuple[float, float]:
        correction = 1 - _AVERAGE**self._batches
        return self._low / correction, self._high / correction


def range_of(low: float, high: float, spec: QuantSpec) -> Range:
    """The range that covers [low, high] and zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    if spec.symmetric:
        code_max = spec.symmetric_range()[1]
        return Range(max(-low, high, SMALLEST_SCALE * code_max) / code_max, 0)
    scale = max((high - low) / (spec.levels - 1), SMALLEST_SCALE)
    return Range(scale, round(-low / scale))


def search(values: Tensor, spec: QuantSpec) -> Range:
    """Searches for the fraction of the full range with the least error. values: float32 of any shape."""
    low, high = (float(v) for v in torch.aminmax(values))
    best, least = range_of(low, high, spec), float("inf")
    for fraction in _FRACTIONS.tolist():
        candidate = range_of(low * fraction, high * fraction, spec)
        code_min, code_max = code_bounds(spec, candidate.zero_point)
        quantized = (values / candidate.scale).round_().clamp_(code_min, code_max).mul_(candidate.scale)
        error = float(quantized.sub_(values).abs_().pow_(EXPONENT).sum(dtype=torch.float64))
        if error < least:
            best, least = candidate, error
    return best


def search_weight(weight: Tensor, spec: QuantSpec) -> Tensor:
    """The best symmetric scale of each output channel: weight float32 [O, ...] -> float32 [O], strictly positive."""
    rows = weight.detach().flatten(1)
    # Channels do not depend on each other: a few at a time stay in the processor's cache.
    return torch.cat([_search_rows(part, spec) for part in rows.split(max(1, _CACHED // rows.shape[1]))])


def _search_rows(rows: Tensor, spec: QuantSpec) -> Tensor:
    code_min, code_max = spec.symmetric_range()
    full = (rows.abs().amax(1) / code_max).clamp(min=SMALLEST_SCALE)
    best, least = full.clone(), torch.full_like(full, float("inf"))
    for fraction in _FRACTIONS.tolist():
        scale = (full * fraction).clamp(min=SMALLEST_SCALE)[:, None]
        quantized = (rows / scale).round_().clamp_(code_min, code_max).mul_(scale)
        error = quantized.sub_(rows).abs_().pow_(EXPONENT).sum(1)
        better = error < least
        best, least = torch.where(better, scale[:, 0], best), torch.where(better, error, least)
    return best
