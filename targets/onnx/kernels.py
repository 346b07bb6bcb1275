"""Dialect passes for speed: operators that ONNX Runtime computes slowly become faster ones with the same integers."""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import torch

from intraq_deploy.graph.ops import Unary
from intraq_deploy.program.arithmetic import unary_table
from intraq_deploy.program.program import Grid
from intraq_deploy.targets.onnx.builder import array, initializer, scalar, set_constant
from intraq_deploy.targets.onnx.dialect import DialectPass, grid_of, producer_of, replace_output
from intraq_deploy.targets.onnx.passes import UnsignedActivations

_SLOPE = 6.0
"""The divisor in HardSigmoid(x) = clip(x / 6 + 1/2, 0, 1)."""
_MARGIN = 1e-4
"""The distance from a tie, in codes, from which on float32 arithmetic of any order rounds alike."""
_CHANNELS, _KERNEL, _WORD = 3, (3, 3), 4
_BYTE = 255


class TablesOfHardSigmoids(DialectPass):
    """HardSigmoids become changes of scale: QuantizeLinear with six times the scale, and 1/2 in its zero-point.

    ONNX Runtime has no integer kernel for HardSigmoid, but reads a LeakyRelu between codes from a table of 256 bytes
    (QLinearLeakyRelu): with slope 1 that is a change of scale. Ensures: the same code for every input code; a
    HardSigmoid stays as it is where 1/2 is not a code of its output.
    """

    name = "tables-of-hard-sigmoids"
    after = UnsignedActivations

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The HardSigmoids between codes that are changes of scale."""
        return [node for node in model.graph if node.op_type == "HardSigmoid" and _change_of_scale(node) is not None]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Puts a change of scale in the place of a HardSigmoid and its quantizer."""
        shift, graph = _change_of_scale(node), model.graph
        assert shift is not None
        grid, zero_point = shift.grid, shift.grid.unsigned_zero_point

        def constant(key: str, value: float, dtype: type[np.generic]) -> ir.Value:
            return initializer(graph, f"{node.name}.{key}", scalar(value, dtype))

        identity = ir.node("LeakyRelu", node.inputs[:1], {"alpha": 1.0}, name=f"{node.name}.identity")
        slope = constant("slope", _SLOPE * grid.scale, np.float32)
        middle = constant("middle", shift.middle + zero_point, np.uint8)
        nodes = [identity, ir.node("QuantizeLinear", [identity.outputs[0], slope, middle])]
        low, high = grid.code_min + zero_point, grid.code_max + zero_point
        if (low, high) != (0, _BYTE):
            bounds = constant("least", low, np.uint8), constant("most", high, np.uint8)
            nodes.append(ir.node("Clip", [nodes[-1].outputs[0], *bounds]))
        for new in nodes:
            new.outputs[0].name = new.name = f"{node.name}.{new.op_type}"
        graph.insert_before(node, nodes)
        replace_output(graph, shift.last, nodes[-1])
        graph.remove([node] if shift.last is shift.quantize else [node, shift.quantize], safe=True)


class _Shift(NamedTuple):
    """A change of scale that stands for a HardSigmoid."""

    grid: Grid
    """The grid of the HardSigmoid's codes."""
    middle: int
    """The code of 1/2."""
    quantize: ir.Node
    last: ir.Node
    """The node that makes the codes: the quantizer, or the Clip behind it."""


def _change_of_scale(node: ir.Node) -> _Shift | None:
    """The change of scale that a HardSigmoid is; None if it is not between codes, or is no such change."""
    source, quantize = producer_of(node.inputs[0], "DequantizeLinear"), _only_reader(node)
    if source is None or quantize is None:
        return None
    clip = _only_reader(quantize)
    last = quantize if clip is None or clip.op_type != "Clip" else clip
    grid_x, grid_y = grid_of(source.inputs[0]), grid_of(last.outputs[0])
    if grid_x is None or grid_y is None:
        return None
    middle = round(0.5 / grid_y.scale)
    fits = middle + grid_y.unsigned_zero_point <= _BYTE and _is_shift(grid_x, grid_y, middle)
    return _Shift(grid_y, middle, quantize, last) if fits else None


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = [usage.node for usage in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 else None


def _is_shift(grid_x: Grid, grid_y: Grid, middle: int) -> bool:
    """Whether HardSigmoid has the same code for every input code as a change of scale."""
    table = unary_table(Unary("HardSigmoid"), grid_x, grid_y)
    codes = torch.arange(grid_x.code_min, grid_x.code_max + 1, dtype=torch.float64)
    shifted = codes * (grid_x.scale / (_SLOPE * grid_y.scale)) + middle
    near = [(shifted + e).round().clamp(grid_y.code_min, grid_y.code_max) for e in (-_MARGIN, _MARGIN)]
    return all(torch.equal(codes.float(), table) for codes in near)


class FourChannelImages(DialectPass):
    """The three channels that a 3x3 convolution reads become four, the last of zeros with weights of zero.

    ONNX Runtime gathers the bytes of every window pixel by pixel: whole words take about two thirds of the time
    (larger kernels gain nothing; both measured on AVX2). Ensures: the same accumulators, and no such convolution of
    three channels is left.
    """

    name = "four-channel-images"
    after = UnsignedActivations

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The 3x3 convolutions of three channels on codes."""
        return [node for node in model.graph if node.op_type == "Conv" and _reads_three_channels(node)]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Pads the codes that a convolution reads, and its weights, with a channel of zeros."""
        graph, (x, weight) = model.graph, (producer_of(value, "DequantizeLinear") for value in node.inputs[:2])
        assert x is not None
        assert weight is not None
        missing = _WORD - _CHANNELS
        pads = initializer(graph, f"{node.name}.channels", np.array([0, 0, 0, 0, 0, missing, 0, 0], dtype=np.int64))
        name = f"{node.name}.padded"
        pad = ir.node("Pad", [x.inputs[0], pads, x.inputs[2]], name=name)  # zero is stored as the zero-point
        pad.outputs[0].name = name
        graph.insert_before(x, pad)
        x.replace_input_with(0, pad.outputs[0])
        x.outputs[0].shape = None
        values = array(weight.inputs[0])
        zeros = np.broadcast_to(array(weight.inputs[2]).reshape(-1, 1, 1, 1), (len(values), missing, *_KERNEL))
        set_constant(weight.inputs[0], np.concatenate([values, zeros.astype(values.dtype)], axis=1))


def _reads_three_channels(conv: ir.Node) -> bool:
    x, weight = (producer_of(value, "DequantizeLinear") for value in conv.inputs[:2])
    if x is None or weight is None or conv.attributes.get_int("group", 1) != 1:
        return False
    codes = weight.inputs[0]
    return codes is not None and codes.const_value is not None and codes.const_value.shape[1:] == (_CHANNELS, *_KERNEL)
