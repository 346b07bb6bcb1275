"""The closed set of operators that a network is made of, from tracing to the device.

Shapes below leave out the batch dimension. Every operator makes one tensor. "Moves data" means that each output
element is one input element or zero: such operators are exact on integer codes and keep their input's grid.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Input:
    """The normalised image, float32 [C, H, W]."""


@dataclass(frozen=True, slots=True)
class Conv2d:
    """A cross-correlation with zero padding, then a bias per channel. Weight [O, C / groups, kh, kw]."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """Zeros at the top, left, bottom and right (ONNX's order)."""
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True, slots=True)
class Linear:
    """The linear layer y = W x + b on [F]. Weight [O, F]."""


@dataclass(frozen=True, slots=True)
class Add:
    """The sum of two tensors of one shape."""


@dataclass(frozen=True, slots=True)
class Multiply:
    """The product of two tensors of one shape, or of [C, H, W] and a gate [C, 1, 1]."""


@dataclass(frozen=True, slots=True)
class Clamp:
    """The function min(max(x, low), high): ReLU is (0, inf), ReLU6 (0, 6), Hardtanh (-1, 1)."""

    low: float
    high: float


RELU = Clamp(0.0, math.inf)


@dataclass(frozen=True, slots=True)
class Unary:
    """One of FUNCTIONS, applied to each element."""

    function: str
    alpha: float = 0.0
    """The slope of LeakyRelu below zero, the limit of Elu and Celu there with its sign turned, and the exponent of Pow;
    others have none."""


@dataclass(frozen=True, slots=True)
class ChannelNorm:
    """The norm (x - mean) / sqrt(variance + epsilon) over the channels of a position (LayerNorm without its gain)."""

    epsilon: float


@dataclass(frozen=True, slots=True)
class UnitNorm:
    """The norm x / |x|, with |x|^2 the sum of squares over the channels of a position; 0 where |x| is 0."""


@dataclass(frozen=True, slots=True)
class GlobalAveragePool:
    """The mean over height and width: [C, H, W] -> [C, 1, 1]."""


@dataclass(frozen=True, slots=True)
class AveragePool2d:
    """The mean over windows: [C, H, W] -> [C, H', W']."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Zeros at the top, left, bottom and right."""
    count_padding: bool = True
    """Whether padding counts in a window's mean."""

    @property
    def divides_alike(self) -> bool:
        """Whether every window has one divisor."""
        return self.count_padding or not any(self.padding)


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
    """The elements in one dimension: [C, H, W] -> [C * H * W]. Moves data."""


@dataclass(frozen=True, slots=True)
class Reshape:
    """A change of shape that keeps the elements and their order. Moves data."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transpose:
    """A transposition: dimension i of y is dimension permutation[i] of x, counted without the batch. Moves data."""

    permutation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Concat:
    """Tensors one after the other along `dim`, counted without the batch (0 is C). Moves data."""

    dim: int


@dataclass(frozen=True, slots=True)
class Slice:
    """The slice x[start:stop:step] along `dim`, counted without the batch (0 is C). Moves data."""

    dim: int
    start: int
    stop: int
    step: int


@dataclass(frozen=True, slots=True)
class Pad:
    """A padding with zeros before and after each dimension, (C, H, W). Moves data."""

    before: tuple[int, int, int]
    after: tuple[int, int, int]


Op = (
    Input
    | Conv2d
    | Linear
    | Add
    | Multiply
    | Clamp
    | Unary
    | ChannelNorm
    | UnitNorm
    | GlobalAveragePool
    | AveragePool2d
    | MaxPool2d
    | Flatten
    | Reshape
    | Transpose
    | Concat
    | Slice
    | Pad
)
FUNCTIONS = (
    "Sigmoid", "HardSigmoid", "Gelu", "GeluTanh", "Tanh", "Mish", "LeakyRelu", "Elu", "Selu", "Celu", "Softplus", "Exp",
    "Sqrt", "Abs", "Pow",
)  # fmt: skip
MOVES_DATA = (MaxPool2d, Flatten, Reshape, Transpose, Concat, Slice, Pad)
HAS_WEIGHT = (Conv2d, Linear)
AVERAGES = (GlobalAveragePool, AveragePool2d)


def on_integers(op: Op) -> bool:
    """Whether an operator computes on codes where its inputs and its output have them; the others work on dequantized
    values."""
    if isinstance(op, AveragePool2d):
        return op.divides_alike
    return isinstance(op, (*HAS_WEIGHT, *MOVES_DATA, Add, Multiply, Unary, GlobalAveragePool))
