"""Interval arithmetic: the range of every value of a Q/DQ model for any input, read from the graph alone.

An interval holds every element of a value. It may be wider than what occurs (operators without a rule give all that
their type can hold), never narrower.
"""

import math
from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

Interval = tuple[float, float]
_ANYWHERE: Interval = (-math.inf, math.inf)
_TYPES: dict[ir.DataType, Interval] = {ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127)}
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_MOVES = ("Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_AVERAGES = ("AveragePool", "GlobalAveragePool", "ReduceMean")
_RISING = ("Celu", "Elu", "Exp", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Tanh")


class Intervals:
    """The intervals of a model's values by value. The model needs inferred types, and nodes in order."""

    def __init__(self, model: ir.Model) -> None:
        self._known: dict[ir.Value, Interval] = {}
        for node in model.graph:
            interval = self._rule(node)
            for value in node.outputs:
                self._known[value] = _within(interval, _of_type(value))

    def __getitem__(self, value: ir.Value) -> Interval:
        if value.const_value is not None and value.const_value.size and value.dtype != ir.DataType.STRING:
            array = value.const_value.numpy()
            return float(array.min()), float(array.max())
        return self._known.get(value, _of_type(value))

    def _rule(self, node: ir.Node) -> Interval:
        """The interval of a node's outputs."""
        x = _ANYWHERE if not node.inputs or node.inputs[0] is None else self[node.inputs[0]]
        match "" if node.domain else node.op_type:
            case op if op in _MOVES:
                return x
            case op if op in _AVERAGES:
                return _hull(x, (0, 0))  # zeros pad
            case op if op in _RISING:
                ends = _evaluate(node, x[0]), _evaluate(node, x[1])
                # Below zero the slope is `alpha`, which may be negative: then zero is the lowest, between the two.
                falls = node.attributes.get_float("alpha", 1.0) < 0 and x[0] < 0
                return (min(*ends, 0.0), max(*ends, 0.0)) if falls else ends
            case "HardSwish":  # x g(x) with a rising g between 0 and 1, like the next
                return min(x[0], 0), max(_evaluate(node, x[1]), 0)
            case "Sqrt":
                return 0, math.sqrt(max(x[1], 0))
            case "Abs":
                return max(x[0], -x[1], 0), max(-x[0], x[1])
            case "Pow":
                return self._power(x, constant(node.inputs[1]))
            case "Gelu":
                return min(x[0], 0), max(x[1], 0)
            case "Clip":
                return _within(x, (self._input(node, 1, _ANYWHERE)[0], self._input(node, 2, _ANYWHERE)[1]))
            case "Pad":
                return _hull(x, self._input(node, 2, (0, 0)))
            case "Concat":
                return _hull(*(self[value] for value in node.inputs if value is not None))
            case "QuantizeLinear" | "DequantizeLinear":
                return self._grid(node, x)
            case "Add" | "Mul":
                return self._arithmetic(node, x)
            case "Conv" | "Gemm":
                return self._layer(node, x)
        return _ANYWHERE

    def _input(self, node: ir.Node, index: int, absent: Interval) -> Interval:
        value = node.inputs[index] if len(node.inputs) > index else None
        return absent if value is None else self[value]

    def _grid(self, node: ir.Node, x: Interval) -> Interval:
        scale, zero_point = constant(node.inputs[1]), self._input(node, 2, (0, 0))
        if scale is None or scale.size != 1 or not (scale > 0).all() or zero_point[0] != zero_point[1]:
            return _ANYWHERE
        step, zero = float(scale.reshape(())), zero_point[0]
        if node.op_type == "DequantizeLinear":
            return (x[0] - zero) * step, (x[1] - zero) * step
        # With room for float32's rounding.
        return float(np.floor(x[0] / step + 0.499)) + zero, float(np.ceil(x[1] / step - 0.499)) + zero

    def _arithmetic(self, node: ir.Node, a: Interval) -> Interval:
        b = self._input(node, 1, _ANYWHERE)
        if not all(map(math.isfinite, (*a, *b))):
            return _ANYWHERE
        if node.op_type == "Add":
            return a[0] + b[0], a[1] + b[1]
        products = [one * other for one, other in product(a, b)]
        return min(products), max(products)

    def _power(self, x: Interval, exponent: NDArray[Any] | None) -> Interval:
        if exponent is None or exponent.size != 1 or not math.isfinite(x[0]):
            return _ANYWHERE
        power = float(exponent.reshape(()))
        if power <= 0 or (x[0] < 0 and not power.is_integer()):
            return _ANYWHERE
        with np.errstate(over="ignore"):
            points = np.power([x[0], x[1], *([0.0] if x[0] < 0 < x[1] else [])], power)
        return float(points.min()), float(points.max())

    def _layer(self, node: ir.Node, x: Interval) -> Interval:
        weight = constant(node.inputs[1])
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
        plain = node.op_type == "Conv" or {k: v.value for k, v in node.attributes.items()} == {"transB": 1}
        if weight is None or bias is None or not plain or not all(map(math.isfinite, x)):
            return _ANYWHERE
        low, high = _hull(x, (0, 0))  # zeros pad
        rows = weight.reshape(len(weight), -1).astype(np.float64)
        least = np.minimum(rows * low, rows * high).sum(1) + bias
        most = np.maximum(rows * low, rows * high).sum(1) + bias
        return float(least.min()), float(most.max())


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The value of a constant, of any shape and dtype, computed through the operators behind it; None if it depends on
    the model's input, or cannot be computed here."""
    if not is_constant(value):
        return None
    assert value is not None
    try:
        return _compute(value)
    except Exception:  # whatever onnx's reference raises at operators that it has not, or not in this form
        return None


def is_constant(value: ir.Value | None) -> bool:
    """Whether nothing behind a value depends on the model's input."""
    if value is None:
        return False
    waiting, seen = [value], {value}  # without recursion: the whole network may be behind it
    while waiting:
        entry = waiting.pop()
        if entry.const_value is not None:
            continue
        node = entry.producer()
        if node is None or node.domain or any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            return False
        new = {before for before in node.inputs if before is not None} - seen
        seen |= new
        waiting += new
    return True


def _compute(value: ir.Value) -> NDArray[Any]:
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    assert node is not None
    inputs = {str(entry.name): _compute(entry) for entry in node.inputs if entry is not None}
    opsets = None if node.graph is None else {"": node.graph.opset_imports.get("", 1)}
    (output,) = ReferenceEvaluator(ir.to_proto(node), opsets=opsets).run([value.name], inputs)
    return np.asarray(output)


def source(value: ir.Value | None) -> ir.Node | None:
    """The operator that makes a value, behind those that only move data."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _MOVES:
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return node


def dequantizer(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that a value comes from, behind operators that only move data."""
    node = source(value)
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _of_type(value: ir.Value) -> Interval:
    return _ANYWHERE if value.dtype is None else _TYPES.get(value.dtype, _ANYWHERE)


def _within(x: Interval, bounds: Interval) -> Interval:
    low, high = bounds
    return min(max(x[0], low), high), min(max(x[1], low), high)


def _hull(*intervals: Interval) -> Interval:
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _evaluate(node: ir.Node, x: float) -> float:
    """The value of a node's function of one input at one point."""
    (value,) = filter(None, node.inputs)
    with np.errstate(all="ignore"):  # onnx computes both branches of a Sigmoid, of which one may overflow
        (y,) = ReferenceEvaluator(ir.to_proto(node)).run(None, {str(value.name): np.array([x], dtype=np.float32)})
    return float(y[0])
