"""Dialect passes for TensorRT. Its quantizers are INT8 with zero-point 0, it fuses activations in front of them, and it
refuses INT32 biases behind a DequantizeLinear.

They start from the canonical form, in which a stored value is the code itself.
"""

import numpy as np
import onnx_ir as ir

from intraq_deploy.program.program import Grid
from intraq_deploy.targets.onnx.builder import array, initializer, scalar
from intraq_deploy.targets.onnx.canonical import GRID, codes_name
from intraq_deploy.targets.onnx.passes import dequantized_constants, register, replace_output

LARGEST_INT4 = 7
BLOCKS = (128, 64, 32, 16)
"""Of INT4 weights: TensorRT's block sizes, the cheapest first."""

_CLIPPED = ".clipped"
_SHAPES = ("Flatten", "Reshape", "Transpose")


def clipped_name(tensor: str) -> str:
    """The ONNX value that holds the real values of a program's tensor, clipped, in front of its quantizer."""
    return f"{codes_name(tensor)}{_CLIPPED}"


@register("float-clips")
def float_clips(model: ir.Model) -> bool:
    """One Clip of real values in front of QuantizeLinear stands for the Clip of codes behind it.

    TensorRT documents activations in front of quantizers; of a Clip of codes behind one it says nothing (TensorRT for
    RTX 1.7.1 builds it). Requires: canonical form. Ensures: no integer Clip is left, and the same codes:
    f32(s c) / s is within an ulp of c, so the bounds are quantized to the codes that they stand for, and what lies
    between them is not touched.
    """
    changed = False
    for node in list(model.graph):
        grid = node.outputs[0].meta.get(GRID) if node.op_type == "Clip" else None
        if isinstance(grid, Grid):
            _clip_in_front(model.graph, node, grid)
            changed = True
    return changed


def _clip_in_front(graph: ir.Graph, clip: ir.Node, grid: Grid) -> None:
    quantize = clip.inputs[0].producer()  # type: ignore[union-attr]
    assert quantize is not None
    name, real = str(clip.outputs[0].name), quantize.inputs[0]
    bounds = [
        initializer(graph, f"{name}.{key}", scalar(float(np.float32(grid.scale) * np.float32(code)), np.float32))
        for key, code in (("low", grid.code_min), ("high", grid.code_max))
    ]
    clipped = ir.node("Clip", [real, *bounds], outputs=[ir.val(f"{name}{_CLIPPED}")], name=f"{name}{_CLIPPED}")
    graph.insert_before(quantize, clipped)
    quantize.replace_input_with(0, clipped.outputs[0])
    replace_output(graph, clip, quantize)


@register("float-biases")
def float_biases(model: ir.Model) -> bool:
    """Biases are float32, on the accumulator's grid.

    TensorRT refuses INT32 behind a DequantizeLinear. Requires: canonical form. Ensures: f32(s b) for every bias code b;
    the codes are below 2^24, so that they are exact where a runtime divides by the scale again (`lint` holds it).
    """
    found = dequantized_constants(model, ir.DataType.INT32)
    for node, codes in found:
        real = node.outputs[0]
        values = array(codes).astype(np.float32) * array(node.inputs[1])
        real.replace_all_uses_with(initializer(model.graph, f"{real.name}.float", values))
        model.graph.remove(node, safe=True)
    return bool(found)


@register("quantized-float-weights")
def quantized_float_weights(model: ir.Model) -> bool:
    """Weights are stored as float32 and quantized in the graph.

    TensorRT 8 builds INT8 layers from float32 -> QuantizeLinear -> DequantizeLinear; INT8 initialisers it may refuse.
    Requires: INT8 weights behind a DequantizeLinear with zero-points 0. Ensures: the same codes: f32(s c) / s is within
    an ulp of c.
    """
    found = dequantized_constants(model, ir.DataType.INT8)
    for node, codes in found:
        _quantize_in_graph(model.graph, node, codes)
    return bool(found)


def _quantize_in_graph(graph: ir.Graph, dequantize: ir.Node, codes: ir.Value) -> None:
    scale, zero_point = dequantize.inputs[1:3]
    values = array(codes)
    by_row = array(scale).reshape(-1, *[1] * (values.ndim - 1))
    name = str(codes.name)
    real = initializer(graph, name.removesuffix(".codes") + ".float", values.astype(np.float32) * by_row)
    quantize = ir.node("QuantizeLinear", [real, scale, zero_point], {"axis": 0}, name=name)
    graph.insert_before(dequantize, quantize)
    dequantize.replace_input_with(0, quantize.outputs[0])
    graph.initializers.pop(name)
    quantize.outputs[0].name = name


@register("int4-gemms", after="float-biases")
def int4_gemms(model: ir.Model) -> bool:
    """Linear layers with weight codes within [-7, 7] get them as INT4, in blocks along their inputs.

    TensorRT's INT4 is weight-only: such a layer multiplies fp16 activations by weights that it unpacks to fp16, so it
    is outside integer parity. Its compiler refuses INT4 weights behind quantized activations, so the layer reads what
    was to be quantized. Requires: opset 21, weights behind a per-channel DequantizeLinear, biases in float. Ensures:
    INT4 weights in blocks of 128, 64, 32 or 16 inputs, whichever divides them first, the channel's scale in each;
    layers whose inputs none divides stay INT8.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type == "Gemm":
            changed |= _unpack_int4(model.graph, node)
    return changed


def _unpack_int4(graph: ir.Graph, gemm: ir.Node) -> bool:
    weight = gemm.inputs[1].producer()  # type: ignore[union-attr]
    if weight is None or weight.op_type != "DequantizeLinear":
        return False
    codes, scale = weight.inputs[:2]
    assert codes is not None
    values = array(codes)
    block = next((size for size in BLOCKS if values.shape[1] % size == 0), None)
    if block is None or np.abs(values).max(initial=0) > LARGEST_INT4:
        return False
    name = str(gemm.name)
    packed = ir.Tensor(values, ir.DataType.INT4, name=f"{name}.weight.int4")
    stored = ir.val(str(packed.name), ir.DataType.INT4, values.shape, const_value=packed)
    graph.register_initializer(stored)
    halves = np.repeat(array(scale)[:, None], values.shape[1] // block, axis=1).astype(np.float16)
    scales = initializer(graph, f"{name}.weight.half_scale", halves)
    unpacked = ir.node(
        "DequantizeLinear", [stored, scales], {"axis": 1, "block_size": block}, name=f"{name}.weight.half"
    )
    real, moves = _unquantized(gemm.inputs[0], name)
    x = ir.node("Cast", [real], {"to": ir.DataType.FLOAT16}, name=f"{name}.input.half")
    inputs = [x.outputs[0], unpacked.outputs[0]]
    if len(gemm.inputs) > 2 and gemm.inputs[2] is not None:
        inputs.append(initializer(graph, f"{name}.bias.half", array(gemm.inputs[2]).astype(np.float16)))
    half = ir.node("Gemm", inputs, {"transB": 1}, outputs=[ir.val(f"{name}.half")], name=name)
    back = ir.node("Cast", [half.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{name}.float")
    graph.insert_before(gemm, [*moves, x, unpacked, half, back])
    replace_output(graph, gemm, back)
    back.name = f"{name}.float"  # the layer's own name is the Gemm's
    return True


def _unquantized(value: ir.Value | None, reader: str) -> tuple[ir.Value, list[ir.Node]]:
    """The values that a quantized tensor is made from, and copies, for `reader`, of what moves them."""
    assert value is not None
    node = value.producer()
    if node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear"):
        return _unquantized(node.inputs[0], reader)
    if node is not None and node.op_type in _SHAPES:
        real, moves = _unquantized(node.inputs[0], reader)
        name = f"{reader}.{node.name}"
        copy = ir.node(node.op_type, [real, *node.inputs[1:]], node.attributes, outputs=[ir.val(name)], name=name)
        return copy.outputs[0], [*moves, copy]
    return value, []
