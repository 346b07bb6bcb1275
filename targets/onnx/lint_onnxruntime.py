"""The linter's rule for ONNX Runtime: layers that it would compute wrongly without saying so.

The rule **products fit 16 bits**: on CPUs without VNNI, ONNX Runtime's kernels for unsigned inputs and signed weights
add two products in 16 bits, on *stored* values, and saturate. A layer is exact there only if

    2 max(stored input) max|stored weight| <= 32,767

whatever its input. Depthwise convolutions with one filter per channel have kernels of their own, which are exact
(tests/targets/test_other_cpus.py runs both under an emulated Haswell). Everything is read from the graph itself (how
far inputs reach, by interval arithmetic), so any Q/DQ file can be checked.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intraq_deploy.program.limits import largest_weight_beside
from intraq_deploy.targets.onnx.findings import LintFinding, name_of
from intraq_deploy.targets.onnx.intervals import Intervals, constant, dequantizer
from intraq_deploy.targets.profile import TargetProfile

PRODUCTS = "products fit 16 bits"
_LAYERS = ("Conv", "Gemm", "MatMul")
_SOURCE = "measured: ONNX Runtime 1.32 under an emulated Haswell"


def findings(model: ir.Model, profile: TargetProfile) -> list[LintFinding]:
    """The layers whose products could leave 16 bits, for targets without VNNI. model: with inferred types."""
    if profile.vnni:
        return []
    intervals = Intervals(model)
    found = [_products(node, intervals) for node in model.graph if node.op_type in _LAYERS]
    return [finding for finding in found if finding is not None]


def _products(layer: ir.Node, intervals: Intervals) -> LintFinding | None:
    stored, weights = _largest_input(layer.inputs[0], intervals), _signed_weights(layer.inputs[1])
    if stored is None or weights is None or _is_depthwise(layer, weights):
        return None
    weight = int(np.abs(weights).max(initial=0))
    limit = largest_weight_beside(stored)
    if weight <= limit:
        return None
    name = name_of(layer)
    what = (
        f"{name} multiplies stored inputs up to {stored} by weights up to {weight}: two products (2 x {stored} x "
        f"{weight} = {2 * stored * weight:,}) leave the 16 bits in which CPUs without VNNI add them; keep its weights "
        f"within {limit}, or store them as UINT8"
    )
    return LintFinding(PRODUCTS, name, what, _SOURCE)


def _is_depthwise(layer: ir.Node, weights: NDArray[np.int32]) -> bool:
    groups = layer.attributes.get_int("group", 1)
    return groups > 1 and weights.shape[:2] == (groups, 1)


def _largest_input(value: ir.Value | None, intervals: Intervals) -> int | None:
    """The largest byte that a layer may read; None if it does not read UINT8."""
    node = dequantizer(value)
    codes = None if node is None else node.inputs[0]
    if node is None or codes is None or codes.dtype != ir.DataType.UINT8:
        return None
    # A layer pads with zeros, which are stored as the zero-point even where no code reaches it.
    zero_point = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return max(int(intervals[codes][1]), 0 if zero_point is None else int(zero_point.max()))


def _signed_weights(value: ir.Value | None) -> NDArray[np.int32] | None:
    """The constant weights of a layer as they are stored; None if they are not INT8."""
    node = dequantizer(value)
    codes = None if node is None else node.inputs[0]
    values = constant(codes) if codes is not None and codes.dtype == ir.DataType.INT8 else None
    return None if values is None else values.astype(np.int32)
