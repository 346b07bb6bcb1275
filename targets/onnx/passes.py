"""Dialect passes for ONNX Runtime, whose integer kernels take unsigned activations, and codes where data only moves."""

import math

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import PreconditionError

from intraq_deploy.program.limits import largest_weight_beside
from intraq_deploy.program.program import Grid
from intraq_deploy.targets.onnx.builder import array, initializer, scalar, set_constant
from intraq_deploy.targets.onnx.canonical import UNCLIPPED
from intraq_deploy.targets.onnx.dialect import DialectPass, grid_of, producer_of, replace_output
from intraq_deploy.targets.onnx.findings import name_of

_MOVES = ("MaxPool", "Flatten", "Reshape", "Transpose", "Concat", "Slice", "Pad")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


class UnsignedActivations(DialectPass):
    """Activations are stored as UINT8 with their lowest code at 0.

    ONNX Runtime on x86 runs integer kernels on unsigned activations only. Requires: codes come from quantizers, as in
    the canonical form. Ensures: every activation's QuantizeLinear, Clip and DequantizeLinear is UINT8; a Clip is left
    only where the type's own saturation does not do its work (its lower bound never is needed, its upper below 8 bits).
    """

    name = "unsigned-activations"

    def requires(self, model: ir.Model) -> None:
        """Checks that codes come from quantizers. Raises PreconditionError for codes that another operator makes."""
        for node in model.graph:
            if grid_of(node.outputs[0]) is not None and _quantizer(node) is None:
                raise PreconditionError(f"the pass {self.name!r} comes too late: {name_of(node)} works on codes")

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The nodes that make codes, a QuantizeLinear or a Clip behind one."""
        return [
            node
            for node in model.graph
            if grid_of(node.outputs[0]) is not None
            and (_is_whole_clip(node) or not all(map(_is_unsigned, _quantizers(node))))
        ]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Gives the codes that a node makes their unsigned zero-point, and their Clip the bounds that are needed."""
        grid, quantize = grid_of(node.outputs[0]), _quantizer(node)
        assert grid is not None
        assert quantize is not None
        zero_point = set_constant(quantize.inputs[2], scalar(grid.unsigned_zero_point, np.uint8))
        for reader in _quantizers(node):
            reader.replace_input_with(2, zero_point)
        if node is not quantize:
            _clip_unsigned(model.graph, node, quantize, grid)


def _is_whole_clip(node: ir.Node) -> bool:
    """Whether a node is a Clip of codes with both of its bounds, as the canonical form has it."""
    return node.op_type == "Clip" and UNCLIPPED in node.outputs[0].meta


def _quantizer(node: ir.Node) -> ir.Node | None:
    """The QuantizeLinear of the codes that a node makes."""
    return producer_of((node.inputs if node.op_type == "Clip" else node.outputs)[0], "QuantizeLinear")


def _quantizers(node: ir.Node) -> list[ir.Node]:
    """The QuantizeLinear and every DequantizeLinear of the codes that a node makes."""
    nodes = [_quantizer(node), *(usage.node for usage in node.outputs[0].uses())]
    return [each for each in nodes if each is not None and each.op_type in _QUANTIZERS]


def _is_unsigned(quantizer: ir.Node) -> bool:
    zero_point = quantizer.inputs[2]
    return zero_point is not None and zero_point.dtype == ir.DataType.UINT8


def _clip_unsigned(graph: ir.Graph, clip: ir.Node, quantize: ir.Node, grid: Grid) -> None:
    least, most = clip.outputs[0].meta.pop(UNCLIPPED)
    low = grid.code_min + grid.unsigned_zero_point if least < grid.code_min else 0
    high = grid.code_max + grid.unsigned_zero_point if most > grid.code_max else 255
    clip.replace_input_with(1, None if low == 0 else set_constant(clip.inputs[1], scalar(low, np.uint8)))
    clip.replace_input_with(2, None if high == 255 else set_constant(clip.inputs[2], scalar(high, np.uint8)))
    if (low, high) == (0, 255):
        replace_output(graph, clip, quantize)


class AveragesAsConvolutions(DialectPass):
    """Means over windows become depthwise convolutions with weights of one.

    ONNX Runtime averages windows of integers in floats, one by one; its integer convolutions are exact and fast.
    Ensures: no AveragePool between codes is left that has one divisor for all windows.
    """

    name = "averages-as-convolutions"

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The AveragePools between codes with one divisor for all windows."""
        return [
            node
            for node in model.graph
            if node.op_type == "AveragePool"
            and _readers(node) == ["QuantizeLinear"]
            and _counts_padding(node)
            and producer_of(node.inputs[0], "DequantizeLinear") is not None
            and node.inputs[0].shape is not None  # type: ignore[union-attr]
        ]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Puts a convolution in the place of an AveragePool."""
        graph, x, name = model.graph, node.inputs[0], node.name
        assert x is not None
        assert x.shape is not None
        channels = int(x.shape[1])  # type: ignore[arg-type]
        kernel = tuple(node.attributes.get_ints("kernel_shape", ()))
        weight = f"{name}.weight"
        ones = initializer(graph, f"{weight}.codes", np.ones((channels, 1, *kernel), dtype=np.int8))
        share = initializer(graph, f"{weight}.scale", scalar(1 / math.prod(kernel), np.float32))
        zero = initializer(graph, f"{weight}.zero_point", scalar(0, np.int8))
        dequantize = ir.node("DequantizeLinear", [ones, share, zero], outputs=[ir.val(weight)], name=weight)
        attributes = {key: tuple(node.attributes.get_ints(key, ())) for key in ("strides", "pads")}
        inputs, outputs = [x, dequantize.outputs[0]], [ir.val(f"{name}.mean")]
        conv = ir.node("Conv", inputs, attributes | {"group": channels}, outputs=outputs, name=name)
        graph.insert_before(node, [dequantize, conv])
        replace_output(graph, node, conv)


def _counts_padding(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("count_include_pad", 0)) or not any(node.attributes.get_ints("pads", ()))


class UnsignedWeights(DialectPass):
    """Weights that could overflow on CPUs without VNNI are stored as UINT8 with zero-point 128.

    There, ONNX Runtime's kernels for unsigned inputs and signed weights add two products in 16 bits, on *stored*
    input values: exact only if 2 max(stored input) max|c_w| <= 32,767. Its kernels for unsigned weights are exact on
    every CPU and slower, so only layers that need them get them: 8-bit weights behind 8-bit inputs of both signs.
    Depthwise convolutions with one filter per channel have kernels of their own (measured: exact). Ensures: the
    inequality, for every other layer with signed weights.
    """

    name = "unsigned-weights"
    after = UnsignedActivations

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The layers with signed weights whose products could leave 16 bits."""
        return [node for node in model.graph if node.op_type in ("Conv", "Gemm") and _can_overflow(node)]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Stores the weight codes of a layer 128 higher."""
        dequantize = producer_of(node.inputs[1], "DequantizeLinear")
        assert dequantize is not None
        codes, _, zero_point = dequantize.inputs
        values = array(codes).astype(np.int32) + 128
        set_constant(codes, values.astype(np.uint8))
        set_constant(zero_point, np.full(values.shape[0], 128, dtype=np.uint8))


def _can_overflow(layer: ir.Node) -> bool:
    source, weight = (producer_of(value, "DequantizeLinear") for value in layer.inputs[:2])
    grid = None if source is None else grid_of(source.inputs[0])
    stored = None if weight is None else weight.inputs[0]
    if grid is None or stored is None or stored.const_value is None or stored.dtype != ir.DataType.INT8:
        return False
    codes = array(stored).astype(np.int32)
    groups = layer.attributes.get_int("group", 1)
    depthwise = groups > 1 and codes.shape[:2] == (groups, 1)
    return not depthwise and int(np.abs(codes).max()) > largest_weight_beside(grid.code_max + grid.unsigned_zero_point)


class IntegerMoves(DialectPass):
    """Operators that only move data read and write codes.

    Ensures: no DequantizeLinear -> operator -> QuantizeLinear with one grid around it is left, so that the integers
    stay integers whether or not the runtime knows this fusion.
    """

    name = "integer-moves"

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The operators that move dequantized codes which are quantized on the same grid again."""
        return [node for node in model.graph if node.op_type in _MOVES and _moves_codes(node)]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Lets an operator move the codes themselves."""
        (usage,) = node.outputs[0].uses()
        quantize = usage.node
        for index, value in enumerate(_moved(node)):
            dequantize = producer_of(value, "DequantizeLinear")
            assert dequantize is not None
            node.replace_input_with(index, dequantize.inputs[0])
            model.graph.remove(dequantize, safe=True)
        if node.op_type == "Pad":
            # ONNX pads with 0 where nothing is said; the code of zero is stored as the zero-point.
            node.resize_inputs(3)
            node.replace_input_with(2, quantize.inputs[2])
        replace_output(model.graph, quantize, node)


def _readers(node: ir.Node) -> list[str]:
    return [usage.node.op_type for usage in node.outputs[0].uses()]


def _moved(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """The inputs of an operator whose data it moves."""
    return tuple(node.inputs if node.op_type == "Concat" else node.inputs[:1])


def _moves_codes(node: ir.Node) -> bool:
    """Whether an operator stands between codes of one grid."""
    if _readers(node) != ["QuantizeLinear"]:
        return False
    (usage,) = node.outputs[0].uses()
    grid = grid_of(usage.node.outputs[0])
    return grid is not None and all(_is_of_grid(value, grid) for value in _moved(node))


def _is_of_grid(value: ir.Value | None, grid: Grid) -> bool:
    """Whether a value is dequantized from codes that are stored as those of `grid` are."""
    dequantize = producer_of(value, "DequantizeLinear")
    own = None if dequantize is None else grid_of(dequantize.inputs[0])
    return own is not None and (own.scale, own.lowest) == (grid.scale, grid.lowest)
