"""Dialect passes: canonical Q/DQ ONNX becomes the form that a runtime executes on integers.

A pass changes a model in place. Each says what it requires and ensures; profiles name the passes they want, in order.
"""

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from intraq_deploy.program.bounds import largest_weight_beside
from intraq_deploy.program.program import Grid
from intraq_deploy.targets.onnx.builder import initializer, scalar, set_constant
from intraq_deploy.targets.onnx.canonical import GRID, UNCLIPPED

Pass = Callable[[ir.Model], bool]
"""Changes a model in place; returns whether it changed anything."""
PASSES: dict[str, Pass] = {}
AFTER: dict[str, str] = {}
"""The pass that another one requires before it."""
_MOVES = ("MaxPool", "Flatten", "Reshape", "Transpose", "Concat", "Slice", "Pad")


def register(name: str, after: str | None = None) -> Callable[[Pass], Pass]:
    """Makes a pass known to profiles under `name`, which must be new. after: the one that it requires before it."""

    def add(function: Pass) -> Pass:
        if name in PASSES:
            raise ValueError(f"two passes named {name}")
        PASSES[name] = function
        if after is not None:
            AFTER[name] = after
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
    zero_point = set_constant(quantize.inputs[2], scalar(grid.unsigned_zero_point, np.uint8))
    for reader in [quantize, *(usage.node for usage in codes.uses())]:
        if reader.op_type in ("QuantizeLinear", "DequantizeLinear"):
            reader.replace_input_with(2, zero_point)
    if clip is not None:
        _clip_unsigned(graph, clip, quantize, grid)
    return True


def _clip_unsigned(graph: ir.Graph, clip: ir.Node, quantize: ir.Node, grid: Grid) -> None:
    stored = clip.outputs[0]
    least, most = stored.meta[UNCLIPPED]
    low = grid.code_min + grid.unsigned_zero_point if least < grid.code_min else 0
    high = grid.code_max + grid.unsigned_zero_point if most > grid.code_max else 255
    clip.replace_input_with(1, None if low == 0 else set_constant(clip.inputs[1], scalar(low, np.uint8)))
    clip.replace_input_with(2, None if high == 255 else set_constant(clip.inputs[2], scalar(high, np.uint8)))
    if (low, high) == (0, 255):
        replace_output(graph, clip, quantize)


def replace_output(graph: ir.Graph, last: ir.Node, producer: ir.Node) -> None:
    """`producer` makes what `last` made, under its name; `last` goes."""
    old, new = last.outputs[0], producer.outputs[0]
    name = old.name
    if old.is_graph_output():
        new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.meta.update(old.meta)
    graph.remove(last, safe=True)
    new.name = producer.name = name


@register("averages-as-convolutions")
def averages_as_convolutions(model: ir.Model) -> bool:
    """Means over windows become depthwise convolutions with weights of one.

    ONNX Runtime averages windows of integers in floats, one by one; its integer convolutions are exact and fast.
    Requires: canonical form; one divisor for all windows. Ensures: no AveragePool between codes is left.
    """
    changed = False
    for node in list(model.graph):
        if node.op_type == "AveragePool" and _readers(node) == ["QuantizeLinear"] and _counts_padding(node):
            changed |= _convolve(model.graph, node)
    return changed


def _counts_padding(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("count_include_pad", 0)) or not any(node.attributes.get_ints("pads", ()))


def _convolve(graph: ir.Graph, pool: ir.Node) -> bool:
    x = pool.inputs[0]
    if x is None or x.shape is None or _producer(x).op_type != "DequantizeLinear":
        return False
    name, channels = pool.name, int(x.shape[1])  # type: ignore[arg-type]
    kernel = tuple(pool.attributes.get_ints("kernel_shape", ()))
    ones = initializer(graph, f"{name}.weight.codes", np.ones((channels, 1, *kernel), dtype=np.int8))
    share = initializer(graph, f"{name}.weight.scale", scalar(1 / math.prod(kernel), np.float32))
    zero = initializer(graph, f"{name}.weight.zero_point", scalar(0, np.int8))
    weight = ir.node("DequantizeLinear", [ones, share, zero], outputs=[ir.val(f"{name}.weight")], name=f"{name}.weight")
    attributes = {key: tuple(pool.attributes.get_ints(key, ())) for key in ("strides", "pads")} | {"group": channels}
    conv = ir.node("Conv", [x, weight.outputs[0]], attributes, outputs=[ir.val(f"{name}.mean")], name=name)
    graph.insert_before(pool, [weight, conv])
    replace_output(graph, pool, conv)
    return True


@register("unsigned-weights", after="unsigned-activations")
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
    return int(np.abs(codes).max()) > largest_weight_beside(grid.code_max + grid.unsigned_zero_point)


def _store_weights_unsigned(dequantize: ir.Node) -> None:
    codes, _, zero_point = dequantize.inputs
    values = codes.const_value.numpy().astype(np.int32) + 128  # type: ignore[union-attr]
    set_constant(codes, values.astype(np.uint8))
    set_constant(zero_point, np.full(values.shape[0], 128, dtype=np.uint8))


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


def _readers(node: ir.Node) -> list[str]:
    return [usage.node.op_type for usage in node.outputs[0].uses()]


def _grid_behind(node: ir.Node) -> Grid | None:
    if _readers(node) != ["QuantizeLinear"]:
        return None
    (usage,) = node.outputs[0].uses()
    grid = usage.node.outputs[0].meta.get(GRID)
    return grid if isinstance(grid, Grid) else None


def _move_codes(graph: ir.Graph, node: ir.Node, grid: Grid) -> bool:
    (usage,) = node.outputs[0].uses()
    quantize = usage.node
    inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    dequantizes = [_producer(value) for value in inputs]
    if not all(_of_grid(dequantize, grid) for dequantize in dequantizes):
        return False
    for index, dequantize in enumerate(dequantizes):
        node.replace_input_with(index, dequantize.inputs[0])
        graph.remove(dequantize, safe=True)
    if node.op_type == "Pad":
        # ONNX pads with 0 where nothing is said; the code of zero is stored as the zero-point.
        node.resize_inputs(3)
        node.replace_input_with(2, quantize.inputs[2])
    replace_output(graph, quantize, node)
    return True


def _of_grid(dequantize: ir.Node, grid: Grid) -> bool:
    """Whether a node dequantizes codes that are stored as those of `grid` are."""
    if dequantize.op_type != "DequantizeLinear" or dequantize.inputs[0] is None:
        return False
    own = dequantize.inputs[0].meta.get(GRID)
    return isinstance(own, Grid) and (own.scale, own.lowest) == (grid.scale, grid.lowest)


def dequantized_constants(model: ir.Model, dtype: ir.DataType) -> list[tuple[ir.Node, ir.Value]]:
    """Every DequantizeLinear of a constant of that type, with the constant."""
    nodes = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    found = [(node, node.inputs[0]) for node in nodes]
    return [
        (n, codes) for n, codes in found if codes is not None and codes.const_value is not None and codes.dtype == dtype
    ]


def _producer(value: ir.Value | None) -> ir.Node:
    producer = None if value is None else value.producer()
    assert producer is not None
    return producer
