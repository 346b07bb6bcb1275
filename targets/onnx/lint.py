"""A linter of Q/DQ models: what a target would compute wrongly without saying so.

The rule **products fit 16 bits**: on CPUs without VNNI, ONNX Runtime's kernels for unsigned inputs and signed weights
add two products in 16 bits, on *stored* values, and saturate. A layer is exact there only if

    2 max(stored input) max|stored weight| <= 32,767

whatever its input. Depthwise convolutions with one filter per channel have kernels of their own, which are exact
(tests/targets/test_other_cpus.py runs both under an emulated Haswell). Everything is read from the graph itself, so any
Q/DQ file can be checked, not only ours.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from intraq_deploy.targets.profile import TargetProfile
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import ShapeInferencePass

PRODUCTS = "products fit 16 bits"
_LAYERS = ("Conv", "Gemm", "MatMul")
_MOVES = ("Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_INT16_MAX = 32_767
_UINT8_MAX = 255


@dataclass(frozen=True, slots=True)
class Finding:
    """One layer that breaks a rule."""

    rule: str
    layer: str
    what: str
    """One sentence with the values seen and the remedy."""


def lint(model: ir.Model, profile: TargetProfile) -> list[Finding]:
    """The layers of `model` that the profile's target would compute wrongly, in the order of the graph."""
    if profile.vnni:
        return []
    typed = ir.serde.from_proto(ir.to_proto(model))
    ShapeInferencePass()(typed)
    findings = [_products(node) for node in typed.graph if node.op_type in _LAYERS]
    return [finding for finding in findings if finding is not None]


def _products(layer: ir.Node) -> Finding | None:
    stored, weights = _largest_input(layer.inputs[0]), _signed_weights(layer.inputs[1])
    if stored is None or weights is None or _is_depthwise(layer, weights):
        return None
    weight = int(np.abs(weights).max(initial=0))
    total = 2 * stored * weight
    if total <= _INT16_MAX:
        return None
    name = layer.name or str(layer.outputs[0].name)
    what = (
        f"{name} multiplies stored inputs up to {stored} by weights up to {weight}: two products (2 x {stored} x "
        f"{weight} = {total:,}) leave the 16 bits in which CPUs without VNNI add them; keep its weights within "
        f"{_INT16_MAX // (2 * stored)}, or store them as UINT8"
    )
    return Finding(PRODUCTS, name, what)


def _is_depthwise(layer: ir.Node, weights: NDArray[np.int32]) -> bool:
    groups = layer.attributes.get_int("group", 1)
    return groups > 1 and weights.shape[:2] == (groups, 1)


def _largest_input(value: ir.Value | None) -> int | None:
    """The largest byte that a layer may read; None if it does not read UINT8."""
    dequantize = _dequantize(value)
    if dequantize is None:
        return None
    codes = dequantize.inputs[0]
    assert codes is not None
    if codes.dtype != ir.DataType.UINT8:
        return None
    # A layer pads with zeros, which are stored as the zero-point even where no code reaches it.
    zero_point = _constant(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else None
    return max(_largest_byte(codes), 0 if zero_point is None else int(zero_point.max()))


def _signed_weights(value: ir.Value | None) -> NDArray[np.int32] | None:
    """The constant weights of a layer as they are stored, its first axis first; None if they are not signed bytes."""
    dequantize = _dequantize(value)
    if dequantize is None:
        return None
    codes = dequantize.inputs[0]
    assert codes is not None
    values = _constant(codes) if codes.dtype == ir.DataType.INT8 else None
    return None if values is None else values.astype(np.int32)


def _dequantize(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes a real value, behind operators that only move data."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _MOVES:
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _largest_byte(codes: ir.Value | None) -> int:
    """What the operators between QuantizeLinear and DequantizeLinear leave of a byte."""
    node = None if codes is None else codes.producer()
    if node is None:
        return _UINT8_MAX
    if node.op_type in _MOVES:
        return _largest_byte(node.inputs[0])
    if node.op_type == "Concat":
        return max(_largest_byte(value) for value in node.inputs)
    if node.op_type == "Pad":
        return max(_largest_byte(node.inputs[0]), _bound(node, 2, absent=0))
    if node.op_type == "Clip":
        return min(_largest_byte(node.inputs[0]), _bound(node, 2, absent=_UINT8_MAX))
    return _UINT8_MAX


def _bound(node: ir.Node, index: int, absent: int) -> int:
    """A constant input, `absent` where there is none, and all that a byte can be where it is not constant."""
    if len(node.inputs) <= index or node.inputs[index] is None:
        return absent
    value = _constant(node.inputs[index])
    return _UINT8_MAX if value is None else int(value)


def _constant(value: ir.Value | None) -> NDArray[Any] | None:
    """What a value always is, computed through the operators behind it; None if it depends on the model's input."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.domain:
        return None
    inputs = {entry.name: _constant(entry) for entry in node.inputs if entry is not None}
    if any(array is None for array in inputs.values()):
        return None
    outputs = ReferenceEvaluator(ir.to_proto(node)).run([value.name], inputs)
    return np.asarray(outputs[0])
