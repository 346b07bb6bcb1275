"""A scheme says who gets a quantizer, and which: three published or measured conventions, as data.

| role       | the tensor                                                                                       |
|------------|--------------------------------------------------------------------------------------------------|
| image      | the network's input                                                                              |
| activation | behind a ReLU-like or smooth function                                                            |
| linear     | a convolution, sum or product without one: residual branches, linear bottlenecks                 |
| pooled     | behind an average pooling, or in front of the one that makes the logits                          |
| gate       | from a pooling to the gate of a product (squeeze-and-excite), and gates themselves               |

The logits are never quantized. Protocols are not comparable with each other: say which one a number belongs to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from intraq_deploy.errors import UsageError
from intraq_deploy.quantization.spec import QuantSpec, activation_spec, largest_code, weight_spec

Ranges = Literal["learned", "min-max"]
INT16_MAX = 32_767


@dataclass(frozen=True, slots=True)
class TargetConstraints:
    """The demands of the runtimes that a network is quantized for."""

    unsigned_activations: bool = False
    """Whether all runtimes take unsigned bytes with a zero-point."""
    largest_weight: int | None = None
    """The greatest |code| of 8-bit weights; None stands for 127."""


NO_CONSTRAINTS = TargetConstraints()


@dataclass(frozen=True, slots=True)
class Scheme:
    """Quantizers by role; None leaves the tensor in float."""

    name: str
    weight: QuantSpec
    first_weight: QuantSpec
    last_weight: QuantSpec
    activation: QuantSpec
    image: QuantSpec | None
    linear: QuantSpec | None
    pooled: QuantSpec | None
    gate: QuantSpec | None
    ranges: Ranges
    """The way to ranges. "learned": scales start from an MSE search and are trained (LSQ). "min-max": weights from
    their live minimum and maximum at every step, activations from an average of batch minima and maxima, then fixed."""
    quantize_sums: bool
    """Whether `linear` also covers tensors that no convolution or linear layer reads (inputs of residual sums)."""
    depthwise_weight: QuantSpec | None = None
    """Weights of depthwise layers; None: as those of other layers."""
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    """Weight bits of single layers, by node name, instead of what their role says: mixed precision."""
    largest_weight: int | None = None
    """The greatest |code| of 8-bit weights; None: 127."""

    def with_ranges(self, ranges: Literal["scheme", "learned", "min-max"]) -> "Scheme":
        """This scheme with other ranges ("scheme": its own) for the same tensors at the same bits.

        Learned weights are symmetric.
        """
        if ranges in ("scheme", self.ranges):
            return self
        if ranges == "min-max":
            return replace(self, ranges="min-max")
        return replace(
            self,
            ranges="learned",
            weight=replace(self.weight, symmetric=True),
            first_weight=replace(self.first_weight, symmetric=True),
            last_weight=replace(self.last_weight, symmetric=True),
        )


def _integer(weight_bits: int, activation_bits: int, constraints: TargetConstraints) -> Scheme:
    """The scheme of what a device runs: every convolution, sum and the classifier on integers.

    Weights symmetric per output channel; k-bit asymmetric activations behind ReLU-like functions, 8-bit means and gates
    (at 8 bits symmetric, so that one program serves runtimes without zero-points, unless all targets take unsigned
    bytes); everything else 8 bits signed symmetric.
    """
    weight = weight_spec(weight_bits, limit=constraints.largest_weight)
    byte = activation_spec(8, symmetric=True)
    # Two products of unsigned inputs must fit 16 bits on some CPUs: not with 8-bit weights at their full range.
    unsigned = constraints.unsigned_activations and largest_code(weight) * 2 * 255 <= INT16_MAX
    positive = activation_spec(8, symmetric=not unsigned)
    return Scheme(
        name="integer",
        weight=weight,
        first_weight=weight,
        last_weight=weight,
        activation=activation_spec(activation_bits, symmetric=activation_bits == 8 and not unsigned),
        image=byte,
        linear=byte,
        pooled=positive,
        gate=positive,
        ranges="learned",
        quantize_sums=True,
    )


def _paper(weight_bits: int, activation_bits: int, constraints: TargetConstraints) -> Scheme:
    """IntraQ's own quantizer (Zhong et al., CVPR 2022): weights asymmetric min-max per output channel, first and last
    included; activations behind ReLU-like functions only. What reads an unquantized tensor runs in float."""
    weight = weight_spec(weight_bits, symmetric=False, limit=constraints.largest_weight)
    return Scheme(
        name="paper",
        weight=weight,
        first_weight=weight,
        last_weight=weight,
        activation=activation_spec(activation_bits),
        image=None,
        linear=None,
        pooled=None,
        gate=None,
        ranges="min-max",
        quantize_sums=False,
    )


def _ends8(weight_bits: int, activation_bits: int, constraints: TargetConstraints) -> Scheme:
    """The convention of BRECQ, QDrop and GENIE: the first and last layer at 8 bits, every layer's input quantized,
    residual sums in float."""
    byte, ends = activation_spec(8, symmetric=True), weight_spec(8, limit=constraints.largest_weight)
    return Scheme(
        name="ends8",
        weight=weight_spec(weight_bits, limit=constraints.largest_weight),
        first_weight=ends,
        last_weight=ends,
        activation=activation_spec(activation_bits),
        image=byte,
        linear=activation_spec(activation_bits),
        pooled=byte,
        gate=byte,
        ranges="learned",
        quantize_sums=False,
    )


SCHEMES: dict[str, Callable[[int, int, TargetConstraints], Scheme]] = {
    "integer": _integer,
    "paper": _paper,
    "ends8": _ends8,
}


def make_scheme(
    name: str, weight_bits: int, activation_bits: int, constraints: TargetConstraints = NO_CONSTRAINTS
) -> Scheme:
    """The scheme `name` at these bits. constraints: what the targets allow and ask for.

    Raises UsageError for an unknown name or bits outside 2..8.
    """
    if name not in SCHEMES:
        raise UsageError(f"The scheme {name!r} is unknown: choose one of {', '.join(SCHEMES)}.")
    return replace(SCHEMES[name](weight_bits, activation_bits, constraints), largest_weight=constraints.largest_weight)
