"""The Program: a network in integers, which defines the integers that every runtime must compute.

A quantized tensor holds codes c, its values are scale * c. An integer layer with input codes c_x computes

    acc = conv(c_x, c_w) + bias_codes                       exact in int32 (proven when the program is frozen)
    c_y = clip(rint(f32(acc) * f32(f32(s_x s_w) / s_y)), code_min, code_max)

per output channel, in float32, in that order, rounding half to even; the logits of an integer classifier are
f32(acc) * f32(s_x s_w). ReLU-like functions are part of code_min and code_max: quantization is monotone, so clipping
codes is the same as clipping values. A program holds no float weight except in layers that run in float.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import HAS_WEIGHT, on_integers

FORMAT = 2
"""The version of the form in which programs are stored."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The meaning of a tensor's codes, and which of them occur."""

    scale: float
    """The value of one step, a float32 number, strictly positive."""
    bits: int
    code_min: int
    code_max: int
    """The greatest code. Both bounds are the quantizer's, narrowed by the activation in front of it."""
    lowest: int
    """The least code_min of all tensors that share the grid: what is concatenated is stored alike."""

    @property
    def unsigned_zero_point(self) -> int:
        """The zero-point with which the codes are stored in unsigned bytes.

        The lowest code is stored as 0, so that the unsigned type's own saturation is the lower clip. Stored values
        then stay small behind a ReLU, which keeps 8-bit products of CPUs without VNNI from overflowing (they add two
        in 16 bits: 2 max(stored) max|c_w| must not exceed 32,767).
        """
        return max(0, -self.lowest)


@dataclass(frozen=True, slots=True)
class IntegerWeights:
    """The weights of a layer that runs on integers."""

    codes: Tensor
    """The weight's codes, int8 [O, ...]."""
    scale: Tensor
    """The step of each output channel, float32 [O], with the batch norm's gain in it."""
    bias_codes: Tensor
    """The bias on the grid f32(s_x * scale), int32 [O]."""


@dataclass(frozen=True, slots=True)
class FloatWeights:
    """The weights of a layer that runs in float on quantized weights: their values are codes * scale."""

    codes: Tensor
    """The weight's codes, int8 [O, ...]."""
    scale: Tensor
    """The step of each output channel, float32 [O]."""
    bias: Tensor
    """The bias of each output channel, float32 [O]."""

    def weight(self) -> Tensor:
        """The weight's values, float32 [O, ...]."""
        return self.codes.float() * self.scale.reshape(-1, *[1] * (self.codes.dim() - 1))


@dataclass(frozen=True, slots=True)
class UnquantizedWeights:
    """The weights of a layer of the float baseline, batch norm folded: weight [O, ...] and bias [O], float32."""

    values: Tensor
    bias: Tensor

    def weight(self) -> Tensor:
        """The weight's values, float32 [O, ...]."""
        return self.values


LayerWeights = IntegerWeights | FloatWeights | UnquantizedWeights
LAYER_KINDS: dict[str, type[LayerWeights]] = {
    "integer": IntegerWeights,
    "float": FloatWeights,
    "unquantized": UnquantizedWeights,
}
"""The kinds of layers by the names that they are stored under."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A reason why a tensor may differ from the reference, computed from the same codes, and how far."""

    reason: str
    bound: float
    """The greatest share of codes that may differ, each by one; of float logits the greatest difference, as a multiple
    of the largest logit."""


@dataclass(frozen=True, slots=True)
class Normalization:
    """The normalization of programs that take uint8 images: x = (f32(pixel) - shift) / divisor per channel, float32."""

    shift: tuple[float, ...]
    divisor: tuple[float, ...]

    @staticmethod
    def of(mean: tuple[float, ...], std: tuple[float, ...]) -> "Normalization":
        """The normalization with this mean and deviation per channel, of pixels scaled to [0, 1]."""
        return Normalization(tuple(255 * m for m in mean), tuple(255 * s for s in std))

    def apply(self, pixels: Tensor) -> Tensor:
        """Pixels, uint8 [N, C, H, W], as normalised images, float32 of the same shape and on the same device."""
        shift, divisor = self.constants(torch.float32, pixels.device)
        return (pixels.float() - shift) / divisor

    def invert(self, images: Tensor) -> Tensor:
        """The nearest pixels, uint8, of normalised images, float32 [N, C, H, W]: same shape, same device."""
        shift, divisor = self.constants(torch.float32, images.device)
        return (images * divisor + shift).round().clamp(0, 255).to(torch.uint8)

    def constants(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """The shift and the divisor as tensors [C, 1, 1] of a float `dtype` (float32 or float64) on `device`."""
        shift, divisor = (
            torch.tensor(values, dtype=dtype, device=device).reshape(-1, 1, 1) for values in (self.shift, self.divisor)
        )
        return shift, divisor


@dataclass(frozen=True)
class Program:
    """A network in integers. Nothing changes a program once it is made: `sha256` is computed once."""

    graph: Graph
    """The operators, without float weights. Tensors without a grid are float."""
    grids: Mapping[str, Grid]
    """The grid of every quantized tensor by name, tensors that only move data included."""
    layers: Mapping[str, LayerWeights]
    """The weights of every convolution and linear layer by name."""
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    """The tolerances of quantized tensors and of the logits by name; a tensor without one is exact."""
    normalization: Normalization | None = None
    """The normalization of uint8 images; None where images are float32 and already normalised."""

    def __repr__(self) -> str:
        integers = sum(isinstance(layer, IntegerWeights) for layer in self.layers.values())
        return (
            f"Program({integers} of {len(self.layers)} layers with weights on integers, {len(self.grids)} quantized "
            f"tensors, {len(self.tolerances)} toleranced, sha256 {self.sha256[:12]})"
        )

    def is_integer(self, node: Node) -> bool:
        """Whether a node computes on codes."""
        if isinstance(node.op, HAS_WEIGHT):
            return isinstance(self.layers[node.name], IntegerWeights)
        return on_integers(node.op) and all(name in self.grids for name in (*node.inputs, node.name))

    def serialize(self) -> tuple[str, bytes]:
        """The JSON and the tensors of a program, as its two files hold them: the same program gives the same bytes."""
        tensors, kinds = {}, {}
        for name, weights in self.layers.items():
            kinds[name] = next(kind for kind, type_ in LAYER_KINDS.items() if isinstance(weights, type_))
            for part in weights.__slots__:
                tensors[f"{name}:{part}"] = getattr(weights, part).contiguous()
        data = save_tensors(tensors)
        structure = {
            "format": FORMAT,
            "tensors_sha256": hashlib.sha256(data).hexdigest(),
            "graph": self.graph.to_json(),
            "grids": {name: asdict(grid) for name, grid in self.grids.items()},
            "layers": kinds,
            "tolerances": {name: asdict(tolerance) for name, tolerance in self.tolerances.items()},
            "normalization": None if self.normalization is None else asdict(self.normalization),
        }
        return json.dumps(structure, indent=1, allow_nan=False), data

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the program's JSON, which holds its tensors' hash: one hash for the whole program."""
        return hashlib.sha256(self.serialize()[0].encode()).hexdigest()
