"""Dialect passes for speed: what ONNX Runtime computes slowly becomes something faster with the same integers."""

import numpy as np
import onnx_ir as ir
import torch

from intraq_deploy.graph.ops import Unary
from intraq_deploy.program.arithmetic import unary_table
from intraq_deploy.program.program import Grid
from intraq_deploy.targets.onnx.builder import array, initializer, scalar, set_constant
from intraq_deploy.targets.onnx.canonical import GRID
from intraq_deploy.targets.onnx.passes import register, replace_output

_SLOPE = 6.0
"""HardSigmoid is clip(x / 6 + 1/2, 0, 1)."""
_MARGIN = 1e-4
"""In codes: as far from a tie, float32 arithmetic of any order rounds alike."""
_CHANNELS, _KERNEL, _WORD = 3, (3, 3), 4
_BYTE = 255


@register("tables-of-hard-sigmoids", after="unsigned-activations")
def tables_of_hard_sigmoids(model: ir.Model) -> bool:
    """HardSigmoids become changes of scale: QuantizeLinear with six times the scale, and 1/2 in its zero-point.

    ONNX Runtime has no integer kernel for HardSigmoid, but reads a LeakyRelu between codes from a table of 256 bytes
    (QLinearLeakyRelu): with slope 1 that is a change of scale. Requires: unsigned activations. Ensures: the same code
    for every input code; a HardSigmoid of whose output 1/2 is not a code stays as it is.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type == "HardSigmoid":
            changed |= _change_scale(model.graph, node)
    return changed


def _change_scale(graph: ir.Graph, node: ir.Node) -> bool:
    x, quantize = node.inputs[0], _only_reader(node)
    source = None if x is None else x.producer()
    if source is None or source.op_type != "DequantizeLinear" or quantize is None:
        return False
    clip = _only_reader(quantize)
    last = quantize if clip is None or clip.op_type != "Clip" else clip
    codes_x, codes_y = source.inputs[0], last.outputs[0]
    grid_x, grid_y = (None if codes is None else codes.meta.get(GRID) for codes in (codes_x, codes_y))
    if not isinstance(grid_x, Grid) or not isinstance(grid_y, Grid):
        return False
    middle, zero_point = round(0.5 / grid_y.scale), grid_y.unsigned_zero_point
    if middle + zero_point > _BYTE or not _is_shift(grid_x, grid_y, middle):
        return False

    def constant(key: str, value: float, dtype: type[np.generic]) -> ir.Value:
        return initializer(graph, f"{node.name}.{key}", scalar(value, dtype))

    identity = ir.node("LeakyRelu", [x], {"alpha": 1.0}, name=f"{node.name}.identity")
    parameters = constant("slope", _SLOPE * grid_y.scale, np.float32), constant("middle", middle + zero_point, np.uint8)
    nodes = [identity, ir.node("QuantizeLinear", [identity.outputs[0], *parameters])]
    low, high = grid_y.code_min + zero_point, grid_y.code_max + zero_point
    if (low, high) != (0, _BYTE):
        bounds = constant("least", low, np.uint8), constant("most", high, np.uint8)
        nodes.append(ir.node("Clip", [nodes[-1].outputs[0], *bounds]))
    for new in nodes:
        new.outputs[0].name = new.name = f"{node.name}.{new.op_type}"
    graph.insert_before(node, nodes)
    replace_output(graph, last, nodes[-1])
    graph.remove([node] if last is quantize else [node, quantize], safe=True)
    return True


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = [usage.node for usage in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 else None


def _is_shift(grid_x: Grid, grid_y: Grid, middle: int) -> bool:
    """Whether the function's table is that of a change of scale."""
    table = unary_table(Unary("HardSigmoid"), grid_x, grid_y)
    codes = torch.arange(grid_x.code_min, grid_x.code_max + 1, dtype=torch.float64)
    shifted = codes * (grid_x.scale / (_SLOPE * grid_y.scale)) + middle
    near = [(shifted + e).round().clamp(grid_y.code_min, grid_y.code_max) for e in (-_MARGIN, _MARGIN)]
    return all(torch.equal(codes.float(), table) for codes in near)


@register("four-channel-images", after="unsigned-activations")
def four_channel_images(model: ir.Model) -> bool:
    """The three channels that a 3x3 convolution reads become four, the last of zeros with weights of zero.

    ONNX Runtime gathers the bytes of every window pixel by pixel: whole words take about two thirds of the time
    (larger kernels gain nothing; both measured on AVX2). Requires: unsigned activations. Ensures: the same
    accumulators.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type == "Conv":
            changed |= _widen(model.graph, node)
    return changed


def _widen(graph: ir.Graph, conv: ir.Node) -> bool:
    x, weight = (None if value is None else value.producer() for value in conv.inputs[:2])
    if x is None or weight is None or {x.op_type, weight.op_type} != {"DequantizeLinear"}:
        return False
    pixels, codes, zero_weight = x.inputs[0], weight.inputs[0], weight.inputs[2]
    assert pixels is not None
    assert codes is not None
    values = array(codes)
    if values.shape[1:] != (_CHANNELS, *_KERNEL) or conv.attributes.get_int("group", 1) != 1:
        return False
    missing = _WORD - _CHANNELS
    pads = initializer(graph, f"{conv.name}.channels", np.array([0, 0, 0, 0, 0, missing, 0, 0], dtype=np.int64))
    pad = ir.node("Pad", [pixels, pads, x.inputs[2]], name=f"{conv.name}.padded")  # zero is stored as the zero-point
    pad.outputs[0].name = pad.name
    graph.insert_before(x, pad)
    x.replace_input_with(0, pad.outputs[0])
    x.outputs[0].shape = None
    zeros = np.broadcast_to(array(zero_weight).reshape(-1, 1, 1, 1), (len(values), missing, *_KERNEL))
    set_constant(codes, np.concatenate([values, zeros.astype(values.dtype)], axis=1))
    return True
