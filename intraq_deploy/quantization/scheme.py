"""A scheme says who gets a quantizer, and which: three published or measured conventions, as data.

| role       | the tensor                                                             |
|------------|------------------------------------------------------------------------|
| image      | the network's input                                                    |
| activation | behind a ReLU-like function                                            |
| linear     | a convolution's output or a sum without one: residual branches, linear bottlenecks |
| pooled     | behind an average pooling                                              |

The logits are never quantized. Protocols are not comparable with each other: say which one a number belongs to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from intraq_deploy.errors import UsageError
from intraq_deploy.quantization.spec import QuantSpec, activation_spec, weight_spec

Ranges = Literal["learned", "min-max"]


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
    ranges: Ranges
    """"learned": scales start from an MSE search and are trained (LSQ). "min-max": weights from their live minimum and
    maximum at every step, activations from an average of batch minima and maxima, then fixed."""
    quantize_sums: bool
    """Whether `linear` also covers tensors that no convolution or linear layer reads (inputs of residual sums)."""
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    """Weight bits of single layers, by node name, instead of what their role says: mixed precision."""


def _integer(weight_bits: int, activation_bits: int) -> Scheme:
    """What a device runs: every convolution, sum and the classifier on integers.

    Weights symmetric per output channel; k-bit asymmetric activations behind ReLU-like functions (symmetric at 8 bits,
    so that one program serves runtimes without zero-points); everything else 8 bits signed symmetric.
    """
    weight = weight_spec(weight_bits)
    byte = activation_spec(8, symmetric=True)
    return Scheme(
        name="integer",
        weight=weight,
        first_weight=weight,
        last_weight=weight,
        activation=activation_spec(activation_bits, symmetric=activation_bits == 8),
        image=byte,
        linear=byte,
        pooled=byte,
        ranges="learned",
        quantize_sums=True,
    )


def _paper(weight_bits: int, activation_bits: int) -> Scheme:
    """IntraQ's own quantizer (Zhong et al., CVPR 2022): weights asymmetric min-max per output channel, first and last
    included; activations behind ReLU-like functions only. What reads an unquantized tensor runs in float."""
    weight = weight_spec(weight_bits, symmetric=False)
    return Scheme(
        name="paper",
        weight=weight,
        first_weight=weight,
        last_weight=weight,
        activation=activation_spec(activation_bits),
        image=None,
        linear=None,
        pooled=None,
        ranges="min-max",
        quantize_sums=False,
    )


def _ends8(weight_bits: int, activation_bits: int) -> Scheme:
    """The convention of BRECQ, QDrop and GENIE: the first and last layer at 8 bits, every layer's input quantized,
    residual sums in float."""
    byte = activation_spec(8, symmetric=True)
    return Scheme(
        name="ends8",
        weight=weight_spec(weight_bits),
        first_weight=weight_spec(8),
        last_weight=weight_spec(8),
        activation=activation_spec(activation_bits),
        image=byte,
        linear=activation_spec(activation_bits),
        pooled=byte,
        ranges="learned",
        quantize_sums=False,
    )


SCHEMES: dict[str, Callable[[int, int], Scheme]] = {"integer": _integer, "paper": _paper, "ends8": _ends8}


def make_scheme(name: str, weight_bits: int, activation_bits: int) -> Scheme:
    """The scheme `name` at these bits. Raises UsageError for an unknown name or bits outside 2..8."""
    if name not in SCHEMES:
        raise UsageError(f"The scheme {name!r} is unknown: choose one of {', '.join(SCHEMES)}.")
    return SCHEMES[name](weight_bits, activation_bits)
