"""What happens to a network before it is trained: a recipe is data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class QuantizationRecipe:
    """Where scales come from, and what prepares the weights."""

    ranges: Literal["scheme", "learned", "min-max"] = "scheme"
    """"scheme": as the scheme says. "learned": scales start from an MSE search and are trained (LSQ); weights are then
    symmetric. "min-max": weights from their live minimum and maximum, activations from averaged ones, then fixed."""
    equalize: bool = False
    """Move ranges between channels of consecutive layers first; the float network stays the same function."""
    correct: bool = False
    """Then move every channel's mean and gain to the float network's (training.correction)."""
