"""Rounding that is learned (AdaRound, Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization",
ICML 2020).

While it is learned, a weight lies anywhere between its two neighbours on the grid:

    w_fq = s clip(floor(w / s) + h(v), code_min, code_max)        h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1)

v starts where w_fq = w, within the range. The regulariser

    R = mean(1 - |2 h(v) - 1|^beta)

is 0 where every h is 0 or 1; a large beta leaves all but those near 0 and 1 free. In the end h >= 1/2 rounds up.

The mean, in place of the paper's sum, is ours: beside an error that is relative, one weight of R then fits all layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from intraq_deploy.quantization.network import QuantizedLayer
from intraq_deploy.quantization.quantizer import LearnedWeightQuantizer, by_row
from intraq_deploy.quantization.spec import QuantSpec

_STRETCH, _SHIFT = 1.2, 0.1
_INSIDE = 2.0**-10
"""The part of a step by which the last codes' weights stay inside the range: fake_quantize passes no gradient at its
ends, where fine-tuning could not move them any more."""


class SoftWeightQuantizer(LearnedWeightQuantizer):
    """A stand-in for a layer's quantizer, with its grid, while the layer's rounding is learned. Only v is trained."""

    below: Tensor
    """The lower neighbours floor(w / s), float32 of the weight's shape."""

    def __init__(self, grid: LearnedWeightQuantizer, weight: Tensor) -> None:
        super().__init__(grid.spec, len(weight))
        self.scale = grid.scale
        with torch.no_grad():
            ratio = weight / by_row(grid.scale, weight)
            below = ratio.floor()
            start = torch.logit((ratio - below + _SHIFT) / _STRETCH)
        self.register_buffer("below", below)
        self.v = nn.Parameter(start)

    def up(self) -> Tensor:
        """The share h(v) of a step above the lower neighbour, float32 of the weight's shape."""
        return (_STRETCH * torch.sigmoid(self.v) - _SHIFT).clamp(0, 1)

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The weight [O, ...] between two neighbours on its grid, and the grid's scales [O], float32."""
        codes = (self.below + self.up()).clamp(*self.spec.symmetric_range())
        return codes * by_row(self.scale, weight), self.scale

    def codes(self, weight: Tensor) -> Tensor:
        """The codes that `commit` leaves, int32 of the weight's shape. weight: float32 [O, ...], not read."""
        codes = self.below + (self.up() >= 0.5)
        return codes.clamp(*self.spec.symmetric_range()).to(torch.int32)


def soften(layer: QuantizedLayer) -> SoftWeightQuantizer:
    """Lets the layer's rounding be learned."""
    assert isinstance(layer.quantizer, LearnedWeightQuantizer)
    layer.quantizer = SoftWeightQuantizer(layer.quantizer, layer.weight)
    return layer.quantizer


def commit(layer: QuantizedLayer) -> None:
    """Puts the weights where they were rounded to, and a quantizer that rounds to the nearest back."""
    soft = layer.quantizer
    assert isinstance(soft, SoftWeightQuantizer)
    with torch.no_grad():
        codes = inside(soft.codes(layer.weight).float(), soft.spec)
        layer.weight.copy_(codes * by_row(soft.scale, layer.weight))
    layer.quantizer = LearnedWeightQuantizer(soft.spec, len(layer.weight))
    layer.quantizer.scale = soft.scale


def inside(codes: Tensor, spec: QuantSpec) -> Tensor:
    """Codes, of any float dtype and shape, with those at the ends a little inside the range."""
    first, last = spec.symmetric_range()
    return codes.clamp(first + _INSIDE, last - _INSIDE)


def undecided(rounded: Sequence[SoftWeightQuantizer], beta: float) -> Tensor:
    """The regulariser R over the weights of several layers: a scalar, float32."""
    each = [1 - (2 * soft.up() - 1).abs().pow(beta) for soft in rounded]
    return torch.cat([term.reshape(-1) for term in each]).mean()
