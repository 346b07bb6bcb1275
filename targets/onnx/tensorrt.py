"""Dialect passes for TensorRT, whose quantizers are INT8 with zero-point 0. It fuses activations in front of them, and
refuses INT32 biases behind a DequantizeLinear.

They start from the canonical form, in which a stored value is the code itself.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import PreconditionError

from intraq_deploy.targets.onnx.builder import array, initializer, scalar
from intraq_deploy.targets.onnx.canonical import codes_name
from intraq_deploy.targets.onnx.dialect import DialectPass, constant_dequantizers, grid_of, producer_of, replace_output
from intraq_deploy.targets.onnx.findings import name_of
from intraq_deploy.targets.onnx.lint_tensorrt import BLOCKS

LARGEST_INT4 = 7

_INT4_OPSET = 21
"""The opset from which DequantizeLinear knows INT4 and blocks."""
_CLIPPED = ".clipped"
_SHAPES = ("Flatten", "Reshape", "Transpose")


def clipped_name(tensor: str) -> str:
    """The ONNX value that holds the real values of a program's tensor, clipped, in front of its quantizer."""
    return f"{codes_name(tensor)}{_CLIPPED}"


class FloatClips(DialectPass):
    """One Clip of real values in front of QuantizeLinear stands for the Clip of codes behind it.

    TensorRT documents activations in front of quantizers; of a Clip of codes behind one it says nothing (TensorRT for
    RTX 1.7.1 builds it). Requires: codes are clipped behind their quantizer (canonical form). Ensures: no integer Clip
    is left, and the same codes: f32(s c) / s is within an ulp of c, so the bounds are quantized to the codes that they
    stand for, and what lies between them is not touched.
    """

    name = "float-clips"

    def requires(self, model: ir.Model) -> None:
        """Checks that a Clip of codes stands behind a quantizer. Raises PreconditionError for one that does not."""
        for node in self.find(model):
            if producer_of(node.inputs[0], "QuantizeLinear") is None:
                raise PreconditionError(f"the pass {self.name!r} finds no quantizer in front of {name_of(node)}")

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The Clips of codes."""
        return [node for node in model.graph if node.op_type == "Clip" and grid_of(node.outputs[0]) is not None]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Puts a Clip of real values in front of the quantizer in the place of a Clip of its codes."""
        grid, quantize = grid_of(node.outputs[0]), producer_of(node.inputs[0], "QuantizeLinear")
        assert grid is not None
        assert quantize is not None
        graph, name, real = model.graph, str(node.outputs[0].name), quantize.inputs[0]
        bounds = [
            initializer(graph, f"{name}.{key}", scalar(float(np.float32(grid.scale) * np.float32(code)), np.float32))
            for key, code in (("low", grid.code_min), ("high", grid.code_max))
        ]
        clipped = ir.node("Clip", [real, *bounds], outputs=[ir.val(f"{name}{_CLIPPED}")], name=f"{name}{_CLIPPED}")
        graph.insert_before(quantize, clipped)
        quantize.replace_input_with(0, clipped.outputs[0])
        replace_output(graph, node, quantize)


class FloatBiases(DialectPass):
    """Biases are float32, on the accumulator's grid.

    TensorRT refuses INT32 behind a DequantizeLinear. Ensures: f32(s b) for every bias code b; the codes are below 2^24,
    so that they are exact where a runtime divides by the scale again (`lint` holds it).
    """

    name = "float-biases"

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The DequantizeLinears of INT32 constants."""
        return constant_dequantizers(model, ir.DataType.INT32)

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Stores the values that a DequantizeLinear makes."""
        real = node.outputs[0]
        values = array(node.inputs[0]).astype(np.float32) * array(node.inputs[1])
        real.replace_all_uses_with(initializer(model.graph, f"{real.name}.float", values))
        model.graph.remove(node, safe=True)


class QuantizedFloatWeights(DialectPass):
    """Weights are stored as float32 and quantized in the graph.

    TensorRT 8 builds INT8 layers from float32 -> QuantizeLinear -> DequantizeLinear; INT8 initialisers it may refuse.
    Requires: INT8 weights have zero-points of 0. Ensures: no INT8 constant is dequantized, and the same codes:
    f32(s c) / s is within an ulp of c.
    """

    name = "quantized-float-weights"

    def requires(self, model: ir.Model) -> None:
        """Checks that INT8 weights have zero-points of 0. Raises PreconditionError for weights that have not."""
        for node in self.find(model):
            if len(node.inputs) < 3 or array(node.inputs[2]).any():
                raise PreconditionError(f"the pass {self.name!r} needs zero-points of 0, which {name_of(node)} has not")

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The DequantizeLinears of INT8 constants."""
        return constant_dequantizers(model, ir.DataType.INT8)

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Puts float weights and their quantizer in front of a DequantizeLinear, in the place of INT8 codes."""
        graph, codes, (scale, zero_point) = model.graph, node.inputs[0], node.inputs[1:3]
        assert codes is not None
        values = array(codes)
        by_row = array(scale).reshape(-1, *[1] * (values.ndim - 1))
        name = str(codes.name)
        real = initializer(graph, name.removesuffix(".codes") + ".float", values.astype(np.float32) * by_row)
        quantize = ir.node("QuantizeLinear", [real, scale, zero_point], {"axis": 0}, name=name)
        graph.insert_before(node, quantize)
        node.replace_input_with(0, quantize.outputs[0])
        graph.initializers.pop(name)
        quantize.outputs[0].name = name


class Int4Gemms(DialectPass):
    """Linear layers with weight codes within [-7, 7] get them as INT4, in blocks along their inputs.

    TensorRT's INT4 is weight-only: such a layer multiplies fp16 activations by weights that it unpacks to fp16, so it
    is outside integer parity. Its compiler refuses INT4 weights behind quantized activations, so the layer reads what
    was to be quantized. Requires: opset 21, biases in float. Ensures: INT4 weights in blocks of 128, 64, 32 or 16
    inputs, whichever divides them first, the channel's scale in each; layers whose inputs none divides stay INT8.
    """

    name = "int4-gemms"
    after = FloatBiases

    def requires(self, model: ir.Model) -> None:
        """Checks that biases are in float. Raises PreconditionError for others, and for an opset without INT4."""
        super().requires(model)
        opset = model.opset_imports[""]
        if opset < _INT4_OPSET and self.find(model):
            raise PreconditionError(f"the pass {self.name!r} needs opset {_INT4_OPSET}, and the model has {opset}")

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The linear layers with INT8 weights within [-7, 7] whose inputs a block divides."""
        return [node for node in model.graph if node.op_type == "Gemm" and _fits_int4(node)]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Puts a layer in float16 with INT4 weights in the place of one with INT8 weights."""
        graph, name = model.graph, str(node.name)
        unpacked = _int4_weights(graph, node)
        real, moves = _unquantized(node.inputs[0], name)
        x = ir.node("Cast", [real], {"to": ir.DataType.FLOAT16}, name=f"{name}.input.half")
        inputs = [x.outputs[0], unpacked.outputs[0]]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            inputs.append(initializer(graph, f"{name}.bias.half", array(node.inputs[2]).astype(np.float16)))
        half = ir.node("Gemm", inputs, {"transB": 1}, outputs=[ir.val(f"{name}.half")], name=name)
        back = ir.node("Cast", [half.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{name}.float")
        graph.insert_before(node, [*moves, x, unpacked, half, back])
        replace_output(graph, node, back)
        back.name = f"{name}.float"  # the layer's own name is the Gemm's


def _fits_int4(gemm: ir.Node) -> bool:
    weight = producer_of(gemm.inputs[1], "DequantizeLinear")
    codes = None if weight is None else weight.inputs[0]
    if codes is None or codes.const_value is None or codes.dtype != ir.DataType.INT8:
        return False
    values = array(codes)
    return _block_of(values.shape[1]) is not None and np.abs(values).max(initial=0) <= LARGEST_INT4


def _block_of(inputs: int) -> int | None:
    """The cheapest block that divides a layer's inputs."""
    return next((size for size in BLOCKS if inputs % size == 0), None)


def _int4_weights(graph: ir.Graph, gemm: ir.Node) -> ir.Node:
    """A DequantizeLinear that makes a layer's weights, float16 [O, I], from INT4 in blocks."""
    weight, name = producer_of(gemm.inputs[1], "DequantizeLinear"), str(gemm.name)
    assert weight is not None
    values = array(weight.inputs[0])
    block = _block_of(values.shape[1])
    assert block is not None
    packed = ir.Tensor(values, ir.DataType.INT4, name=f"{name}.weight.int4")
    stored = ir.val(str(packed.name), ir.DataType.INT4, values.shape, const_value=packed)
    graph.register_initializer(stored)
    halves = np.repeat(array(weight.inputs[1])[:, None], values.shape[1] // block, axis=1).astype(np.float16)
    scales = initializer(graph, f"{name}.weight.half_scale", halves)
    attributes = {"axis": 1, "block_size": block}
    return ir.node("DequantizeLinear", [stored, scales], attributes, name=f"{name}.weight.half")


def _unquantized(value: ir.Value | None, reader: str) -> tuple[ir.Value, list[ir.Node]]:
    """The real values behind a quantized tensor, and copies, for `reader`, of the nodes that move them."""
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
