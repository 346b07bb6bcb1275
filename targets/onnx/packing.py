"""Dialect passes that make the file small: what a runtime can compute from other constants is not stored.

ONNX Runtime folds constants when it loads a model, so what runs is what would have been stored in full.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intraq_deploy.targets.onnx.builder import array
from intraq_deploy.targets.onnx.passes import dequantized_constants, register

_LOWEST, _HIGHEST = -8, 7
"""Of INT4."""


@register("packed-weights")
def packed_weights(model: ir.Model) -> bool:
    """Weight codes of four bits or fewer are stored as INT4.

    INT4 -> Cast to INT8 -> [Sub of an INT8 zero-point per output channel] -> DequantizeLinear; the zero-point is there
    if codes leave [-8, 7]. Requires: weights behind a DequantizeLinear, and a runtime that folds a Cast from INT4 (ONNX
    Runtime from 1.23 on; it would not fold a DequantizeLinear from INT4). Ensures: INT8 weights are left only where the
    codes of a channel span more than 16 values.
    """
    changed = False
    for node, codes in dequantized_constants(model, ir.DataType.INT8):
        changed |= _pack(model.graph, node, codes)
    return changed


def _pack(graph: ir.Graph, dequantize: ir.Node, codes: ir.Value) -> bool:
    values = array(codes).astype(np.int32)
    zero_point = _zero_points(values)
    stored = values + zero_point
    if stored.max() > _HIGHEST:
        return False
    name = str(codes.name)
    packed = ir.Tensor(stored.astype(np.int8), ir.DataType.INT4, name=name.removesuffix(".codes") + ".int4")
    nodes = [ir.node("Cast", [_initializer(graph, packed)], {"to": ir.DataType.INT8}, name=f"{name}.int8")]
    nodes[0].outputs[0].name = nodes[0].name
    if zero_point.any():
        subtracted = _initializer(graph, ir.tensor(zero_point.astype(np.int8), name=f"{name}.zero_point"))
        nodes.append(ir.node("Sub", [nodes[0].outputs[0], subtracted]))
    _compute(graph, codes, dequantize, nodes)
    return True


def _zero_points(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """[O, 1, ...]: every channel's least shift that brings its codes to -8 or above, and to 7 or below if it can."""
    rows = tuple(range(1, codes.ndim))
    low: NDArray[np.int32] = codes.min(axis=rows, keepdims=True)
    high: NDArray[np.int32] = codes.max(axis=rows, keepdims=True)
    return np.maximum(np.minimum(_HIGHEST - high, 0), _LOWEST - low)


@register("implied-parameters")
def implied_parameters(model: ir.Model) -> bool:
    """Layers' parameters that follow from others are not stored.

    A zero-point of zeros is left to ONNX's default, and a bias's scale is the product of the input's and the weights'.
    Requires: DequantizeLinear before weights and biases. Ensures: zero-points of biases and scales of integer layers'
    biases are not stored, and the products are what was stored, bit for bit. The weights of a Gemm keep their
    zero-point: without it ONNX Runtime 1.32 leaves the layer in float.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type not in ("Conv", "Gemm"):
            continue
        x, weight = (_dequantize(value) for value in node.inputs[:2])
        bias = _dequantize(node.inputs[2]) if len(node.inputs) > 2 else None
        for source in (bias, weight if node.op_type == "Conv" else None):
            changed |= source is not None and _drop_zero_point(source)
        if x is not None and weight is not None and bias is not None:
            changed |= _compute_scale(model.graph, x, weight, bias)
    return changed


def _dequantize(value: ir.Value | None) -> ir.Node | None:
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _drop_zero_point(dequantize: ir.Node) -> bool:
    if len(dequantize.inputs) < 3 or array(dequantize.inputs[2]).any():
        return False
    dequantize.resize_inputs(2)
    return True


def _compute_scale(graph: ir.Graph, x: ir.Node, weight: ir.Node, bias: ir.Node) -> bool:
    scale_x, scale_w, scale = (source.inputs[1] for source in (x, weight, bias))
    if scale is None or scale.const_value is None:
        return False
    if not np.array_equal(array(scale_x) * array(scale_w), array(scale)):
        return False
    _compute(graph, scale, bias, [ir.node("Mul", [scale_x, scale_w])])
    return True


def _compute(graph: ir.Graph, constant: ir.Value, reader: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """`nodes` compute what the initializer `constant` holds, and take its place and its name."""
    result = nodes[-1].outputs[0]
    graph.insert_before(reader, nodes)
    constant.replace_all_uses_with(result)
    graph.initializers.pop(str(constant.name))
    result.name = nodes[-1].name = constant.name


def _initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.val(str(tensor.name), const_value=tensor)
    graph.register_initializer(value)
    return value
