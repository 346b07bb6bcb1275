"""The closed set of operators that a network is made of, from tracing to the device.

Shapes below leave out the batch dimension. Every operator makes one tensor. "Moves data" means that each output
element is one input element or zero: such operators are exact on integer codes and keep their input's grid.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Input:
    """The normalised image, float32 [C, H, W]."""


@dataclass(frozen=True, slots=True)
class Conv2d:
    """Cross-correlation with zero padding, then a per-channel bias. Weight [O, C / groups, kh, kw]."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """Top, left, bottom, right (ONNX's order)."""
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True, slots=True)
class Linear:
    """y = W x + b on [F]. Weight [O, F]."""


@dataclass(frozen=True, slots=True)
class Add:
    """The sum of two tensors of one shape."""


@dataclass(frozen=True, slots=True)
class Clamp:
    """min(max(x, low), high): ReLU is (0, inf), ReLU6 (0, 6), Hardtanh (-1, 1)."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GlobalAveragePool:
    """The mean over height and width: [C, H, W] -> [C, 1, 1]."""


@dataclass(frozen=True, slots=True)
class AveragePool2d:
    """The mean over windows without padding: [C, H, W] -> [C, H', W']."""

    kernel: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True, slots=True)
class MaxPool2d:
    """The maximum over windows; padding never wins. Moves data."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool


@dataclass(frozen=True, slots=True)
class Flatten:
    """[C, H, W] -> [C * H * W]. Moves data."""


@dataclass(frozen=True, slots=True)
class Slice:
    """x[start:stop:step] along `dim`, counted without the batch (0 is C). Moves data."""

    dim: int
    start: int
    stop: int
    step: int


@dataclass(frozen=True, slots=True)
class Pad:
    """Zeros before and after each dimension, (C, H, W). Moves data."""

    before: tuple[int, int, int]
    after: tuple[int, int, int]


Op = Input | Conv2d | Linear | Add | Clamp | GlobalAveragePool | AveragePool2d | MaxPool2d | Flatten | Slice | Pad
MOVES_DATA = (MaxPool2d, Flatten, Slice, Pad)
HAS_WEIGHT = (Conv2d, Linear)
ON_INTEGERS = (*HAS_WEIGHT, *MOVES_DATA, Add, GlobalAveragePool)
"""Compute on codes where their inputs and their output have them; the others work on dequantized values."""
