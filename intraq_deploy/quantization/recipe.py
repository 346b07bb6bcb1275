"""The recipe of a network's quantization, before it is trained: a recipe is data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class QuantizationRecipe:
    """The origin of scales, and what prepares the weights."""

    ranges: Literal["scheme", "learned", "min-max"] = "scheme"
    """The way to ranges. "scheme": as the scheme says. "learned": scales start from an MSE search and are trained
    (LSQ); weights are then symmetric. "min-max": weights from their live minimum and maximum, activations from averaged
    ones, then fixed."""
    equalize: bool = False
    """Whether ranges first move between channels of consecutive layers; the float network stays the same function."""
