"""The description of a quantizer, before any value is known.

A quantized value is x = scale * c with the integer **code** c = q - zero_point, code_min <= c <= code_max:

    c = clip(round(x / scale), code_min, code_max)        round half to even, x / scale in float32

which is the usual clip(round(x / s) + z, 0, 2^b - 1) with the zero-point subtracted. Codes, not stored values, are the
common currency of every runtime: up to 7 bits an asymmetric quantizer's codes fit a signed byte.
"""

from dataclasses import dataclass

from intraq_deploy.errors import UsageError

MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """How one tensor is quantized, before any value is known."""

    bits: int
    symmetric: bool
    """Whether codes lie around zero with zero-point 0; else a zero-point places the range."""
    per_channel: bool = False
    """Whether every output channel has a scale (weights); else the tensor has one (activations)."""
    limit: int | None = None
    """The greatest |code|, where that is less than the bits allow."""

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise UsageError(f"{self.bits} bits were asked for: {MIN_BITS} to {MAX_BITS} are supported.")

    @property
    def levels(self) -> int:
        """The number of codes, 2^bits."""
        return 1 << self.bits

    def symmetric_range(self) -> tuple[int, int]:
        """The lowest and the highest code of a symmetric quantizer.

        Weights leave out the lowest code ([-7, 7] at 4 bits), so that any runtime's signed type takes them and a
        change of sign stays within the range; activations use it ([-128, 127] at 8 bits).
        """
        half = self.levels // 2
        low, high = (1 - half if self.per_channel else -half), half - 1
        return (low, high) if self.limit is None else (max(low, -self.limit), min(high, self.limit))

    def __str__(self) -> str:
        within = "" if self.limit is None else f" within {self.limit}"
        return f"{self.bits} bits {'symmetric' if self.symmetric else 'asymmetric'}{within}"


def code_bounds(spec: QuantSpec, zero_point: int) -> tuple[int, int]:
    """The lowest and the highest code of a quantizer with this zero-point."""
    if spec.symmetric:
        return spec.symmetric_range()
    return -zero_point, spec.levels - 1 - zero_point


def weight_spec(bits: int, *, symmetric: bool = True, limit: int | None = None) -> QuantSpec:
    """The quantizer of a weight, per output channel.

    8-bit weights are symmetric, as asymmetric codes would not fit a signed byte, and within `limit`, which narrower
    ones always are.
    """
    widest = bits == MAX_BITS
    return QuantSpec(bits, symmetric or widest, per_channel=True, limit=limit if widest else None)


def largest_code(spec: QuantSpec) -> int:
    """The greatest |code| of a symmetric quantizer."""
    low, high = spec.symmetric_range()
    return max(-low, high)


def activation_spec(bits: int, *, symmetric: bool = False) -> QuantSpec:
    """The quantizer of an activation, with one scale per tensor."""
    return QuantSpec(bits, symmetric)
