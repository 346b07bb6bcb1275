"""Dialect passes: canonical Q/DQ ONNX becomes the form that a runtime executes on integers.

A pass changes a model in place. Each says what it requires and ensures; profiles name the passes they want, in order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from intraq_deploy.targets.onnx.builder import scalar
from intraq_deploy.targets.onnx.canonical import GRID
from numpy.typing import NDArray

from intraq_deploy.program.program import Grid

Pass = Callable[[ir.Model], bool]
"""Changes a model in place; returns whether it changed anything."""
PASSES: dict[str, Pass] = {}
_INT16_MAX = 32_767
_MOVES = ("MaxPool", "Flatten", "Slice", "Pad")


def register(name: str) -> Callable[[Pass], Pass]:
    """Makes a pass known to profiles under `name`, which must be new."""

    def add(function: Pass) -> Pass:
        if name in PASSES:
            raise ValueError(f"two passes named {name}")
        PASSES[name] = function
        return function

    return add


@register("unsigned-activations")
def unsigned_activations(model: ir.Model) -> bool:
    """Activations are stored as UINT8 with their lowest code at 0.

    ONNX Runtime on x86 runs integer kernels on unsigned activations only. Requires: codes carry their grid in
    `meta`. Ensures: every activation's QuantizeLinear, Clip and DequantizeLinear is UINT8; a Clip is left only where
    the type's own saturation does not do its work (its lower bound never is needed, its upper below 8 bits).
    """
    changed = False
    for node in list(model.graph):
        for value in node.outputs:
            grid = value.meta.get(GRID)
            if isinstance(grid, Grid):
                changed |= _store_unsigned(model.graph, value, grid)
    return changed


def _store_unsigned(graph: ir.Graph, codes: ir.Value, grid: Grid) -> bool:
    producer = codes.producer()
    assert producer is not None
    clip = producer if producer.op_type == "Clip" else None
    quantize = producer if clip is None else _producer(clip.inputs[0])
    zero_point = _constant(quantize.inputs[2], scalar(grid.unsigned_zero_point, np.uint8))
    for reader in [quantize, *(usage.node for usage in codes.uses())]:
        if reader.op_type in ("QuantizeLinear", "DequantizeLinear"):
            reader.replace_input_with(2, zero_point)
    if clip is not None:
        _clip_unsigned(graph, clip, quantize, grid)
    return True


def _clip_unsigned(graph: ir.Graph, clip: ir.Node, quantize: ir.Node, grid: Grid) -> None:
    low = grid.code_min + grid.unsigned_zero_point
    high = grid.code_max + grid.unsigned_zero_point
    clip.replace_input_with(1, None if low == 0 else _constant(clip.inputs[1], scalar(low, np.uint8)))
    clip.replace_input_with(2, _constant(clip.inputs[2], scalar(high, np.uint8)))
    if (low, high) == (0, 255):
        name, stored = clip.outputs[0].name, quantize.outputs[0]
        clip.outputs[0].replace_all_uses_with(stored)
        stored.meta.update(clip.outputs[0].meta)
        graph.remove(clip, safe=True)
        stored.name = name


@register("unsigned-weights")
def unsigned_weights(model: ir.Model) -> bool:
    """Weights that could overflow on CPUs without VNNI are stored as UINT8 with zero-point 128.

    There, ONNX Runtime's kernels for unsigned inputs and signed weights add two products in 16 bits, on *stored*
    input values: exact only if 2 max(stored input) max|c_w| <= 32,767. Its kernels for unsigned weights are exact on
    every CPU and slower, so only layers that need them get them: 8-bit weights behind 8-bit inputs of both signs.
    Depthwise convolutions with one filter per channel have kernels of their own (measured: exact). Requires: unsigned
    activations. Ensures: the inequality, for every other layer with signed weights.
    """
    changed = False
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm") and _can_overflow(node):
            _store_weights_unsigned(_producer(node.inputs[1]))
            changed = True
    return changed


def _can_overflow(layer: ir.Node) -> bool:
    source, weight = layer.inputs[0].producer(), layer.inputs[1].producer()  # type: ignore[union-attr]
    if source is None or weight is None or source.inputs[0] is None:
        return False
    grid = source.inputs[0].meta.get(GRID)
    codes = weight.inputs[0].const_value.numpy().astype(np.int32)  # type: ignore[union-attr]
    groups = layer.attributes.get_int("group", 1)
    depthwise = groups > 1 and codes.shape[:2] == (groups, 1)
    if not isinstance(grid, Grid) or depthwise:
        return False
    return 2 * (grid.code_max + grid.unsigned_zero_point) * int(np.abs(codes).max()) > _INT16_MAX


def _store_weights_unsigned(dequantize: ir.Node) -> None:
    codes, _, zero_point = dequantize.inputs
    values = codes.const_value.numpy().astype(np.int32) + 128  # type: ignore[union-attr]
    _constant(codes, values.astype(np.uint8))
    _constant(zero_point, np.full(values.shape[0], 128, dtype=np.uint8))


@register("integer-moves")
def integer_moves(model: ir.Model) -> bool:
    """Operators that only move data read and write codes.

    Requires: DequantizeLinear -> operator -> QuantizeLinear with one grid around it (canonical form). Ensures: none of
    the two is left, so that the integers stay integers whether or not the runtime knows this fusion.
    """
    changed = False
    for node in list(model.graph):
        grid = _grid_behind(node) if node.op_type in _MOVES else None
        if grid is not None:
            changed |= _move_codes(model.graph, node, grid)
    return changed


def _grid_behind(node: ir.Node) -> Grid | None:
    readers = [usage.node for usage in node.outputs[0].uses()]
    if [reader.op_type for reader in readers] != ["QuantizeLinear"]:
        return None
    grid = readers[0].outputs[0].meta.get(GRID)
    return grid if isinstance(grid, Grid) else None


def _move_codes(graph: ir.Graph, node: ir.Node, grid: Grid) -> bool:
    (usage,) = node.outputs[0].uses()
    quantize, dequantize = usage.node, _producer(node.inputs[0])
    if dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
        return False
    if dequantize.inputs[0].meta.get(GRID) != grid:
        return False
    node.replace_input_with(0, dequantize.inputs[0])
    if node.op_type == "Pad":
        # ONNX pads with 0 where nothing is said; the code of zero is stored as the zero-point.
        node.resize_inputs(3)
        node.replace_input_with(2, quantize.inputs[2])
    codes, moved = quantize.outputs[0], node.outputs[0]
    name = codes.name
    codes.replace_all_uses_with(moved)
    moved.meta.update(codes.meta)
    graph.remove(quantize, safe=True)
    graph.remove(dequantize, safe=True)
    moved.name = node.name = name
    return True


def _producer(value: ir.Value | None) -> ir.Node:
    producer = None if value is None else value.producer()
    assert producer is not None
    return producer


def _constant(old: ir.Value | None, array: NDArray[Any]) -> ir.Value:
    """Gives the initializer `old` another value, keeping its name."""
    assert old is not None
    old.const_value = ir.tensor(array, name=old.name)
    old.dtype = old.const_value.dtype
    return old


def drop_unused(model: ir.Model) -> None:
    """Removes initializers that nothing reads."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            del model.graph.initializers[name]
