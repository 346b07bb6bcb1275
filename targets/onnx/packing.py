"""Dialect passes that make the file small: constants that a runtime can compute from others are not stored.

ONNX Runtime folds constants when it loads a model, so it runs the same model as if everything were stored in full.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intraq_deploy.targets.onnx.builder import array
from intraq_deploy.targets.onnx.dialect import DialectPass, constant_dequantizers, producer_of

_LOWEST, _HIGHEST = -8, 7
"""The least and the greatest value of INT4."""


class PackedWeights(DialectPass):
    """Weight codes of four bits or fewer are stored as INT4.

    INT4 -> Cast to INT8 -> [Sub of an INT8 zero-point per output channel] -> DequantizeLinear; the zero-point is there
    if codes leave [-8, 7]. It needs a runtime that folds a Cast from INT4 (ONNX Runtime from 1.23 on; it would not fold
    a DequantizeLinear from INT4). Ensures: INT8 weights are left only where the codes of a channel span more than 16
    values.
    """

    name = "packed-weights"

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The DequantizeLinears of INT8 weights whose codes fit four bits, channel by channel."""
        dequantizers = constant_dequantizers(model, ir.DataType.INT8)
        return [node for node in dequantizers if _in_four_bits(node)[0].max() <= _HIGHEST]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Stores the codes that a DequantizeLinear reads as INT4."""
        graph, codes = model.graph, node.inputs[0]
        assert codes is not None
        stored, zero_point = _in_four_bits(node)
        name = str(codes.name)
        packed = ir.Tensor(stored.astype(np.int8), ir.DataType.INT4, name=name.removesuffix(".codes") + ".int4")
        nodes = [ir.node("Cast", [_initializer(graph, packed)], {"to": ir.DataType.INT8}, name=f"{name}.int8")]
        nodes[0].outputs[0].name = nodes[0].name
        if zero_point.any():
            subtracted = _initializer(graph, ir.tensor(zero_point.astype(np.int8), name=f"{name}.zero_point"))
            nodes.append(ir.node("Sub", [nodes[0].outputs[0], subtracted]))
        _compute(graph, codes, node, nodes)


def _in_four_bits(dequantize: ir.Node) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The codes that a node dequantizes, shifted to -8 or above, int32 [O, ...], and the shifts, int32 [O, 1, ...]."""
    values = array(dequantize.inputs[0]).astype(np.int32)
    shifts = _shifts(values)
    return values + shifts, shifts


def _shifts(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Every channel's least shift that brings its codes to -8 or above, and to 7 or below if it can: [O, 1, ...]."""
    rows = tuple(range(1, codes.ndim))
    low: NDArray[np.int32] = codes.min(axis=rows, keepdims=True)
    high: NDArray[np.int32] = codes.max(axis=rows, keepdims=True)
    return np.maximum(np.minimum(_HIGHEST - high, 0), _LOWEST - low)


class ImpliedParameters(DialectPass):
    """Layers' parameters that follow from others are not stored.

    A zero-point of zeros is left to ONNX's default, and a bias's scale is the product of the input's and the weights'.
    Ensures: zero-points of biases and scales of integer layers' biases are not stored, and the products are what was
    stored, bit for bit. The weights of a Gemm keep their zero-point: without it ONNX Runtime 1.32 leaves the layer in
    float.
    """

    name = "implied-parameters"

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The layers with parameters that follow from others."""
        return [
            node
            for node in model.graph
            if node.op_type in ("Conv", "Gemm") and (_with_zeros(node) or _scale_follows(*_dequantizers(node)))
        ]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Leaves out a layer's zero-points of zeros, and computes the scale of its bias."""
        for source in _with_zeros(node):
            source.resize_inputs(2)
        x, weight, bias = _dequantizers(node)
        if _scale_follows(x, weight, bias):
            assert x is not None
            assert weight is not None
            assert bias is not None
            scale = bias.inputs[1]
            assert scale is not None
            _compute(model.graph, scale, bias, [ir.node("Mul", [x.inputs[1], weight.inputs[1]])])


def _dequantizers(layer: ir.Node) -> tuple[ir.Node | None, ir.Node | None, ir.Node | None]:
    """The DequantizeLinears of a layer's input, weights and bias."""
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    x, weight, offset = (producer_of(value, "DequantizeLinear") for value in (*layer.inputs[:2], bias))
    return x, weight, offset


def _with_zeros(layer: ir.Node) -> list[ir.Node]:
    """The DequantizeLinears of a layer's parameters whose zero-points are zeros that may be left out."""
    _, weight, bias = _dequantizers(layer)
    sources = (bias, weight if layer.op_type == "Conv" else None)
    return [
        source
        for source in sources
        if source is not None and len(source.inputs) > 2 and not array(source.inputs[2]).any()
    ]


def _scale_follows(x: ir.Node | None, weight: ir.Node | None, bias: ir.Node | None) -> bool:
    """Whether the scale of a bias is stored, and is the product of the input's and the weights'."""
    if x is None or weight is None or bias is None:
        return False
    scale = bias.inputs[1]
    if scale is None or scale.const_value is None:
        return False
    return np.array_equal(array(x.inputs[1]) * array(weight.inputs[1]), array(scale))


def _compute(graph: ir.Graph, constant: ir.Value, reader: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Lets `nodes` compute what the initializer `constant` holds, under its name, and removes it."""
    result = nodes[-1].outputs[0]
    graph.insert_before(reader, nodes)
    constant.replace_all_uses_with(result)
    graph.initializers.pop(str(constant.name))
    result.name = nodes[-1].name = constant.name


def _initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.val(str(tensor.name), const_value=tensor)
    graph.register_initializer(value)
    return value
