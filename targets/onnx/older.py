"""A dialect pass for functions that are newer than a model's opset: it writes them in operators that the opset has.

    GELU       x/2 (1 + erf(x / sqrt 2))
    tanh GELU  x/2 (1 + tanh(x sqrt(2 / pi) (1 + 0.044715 x^2)))
    Mish       x tanh(softplus(x))
    LayerNorm  d / sqrt(mean(d^2) + epsilon) gain + bias,  d = x - mean(x), along the last dimension

onnx has bodies of its own for them, for the opsets that have the functions. It cannot convert those to opset 13, and
LayerNorm's takes the variance as a difference of two means, Mish's the logarithm of a sum that overflows above 88.
"""

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import PreconditionError

from intraq_deploy.targets.onnx.builder import initializer, scalar
from intraq_deploy.targets.onnx.dialect import DialectPass, replace_output
from intraq_deploy.targets.onnx.findings import name_of

_CUBE = 0.044715
_AXES_AS_INPUT = 18
"""The opset from which ReduceMean takes its axes as an input."""


class OlderOperators(DialectPass):
    """GELU, Mish and LayerNormalization are written in older operators where the model's opset does not have them.

    Requires: LayerNormalization along the last dimension, with one output (canonical form). Ensures: none of the three
    is left that is newer than the opset; the last of a function's operators has its name.
    """

    name = "older-operators"

    def requires(self, model: ir.Model) -> None:
        """Checks the form of LayerNormalizations. Raises PreconditionError for one along other dimensions."""
        for node in model.graph:
            form = node.attributes.get_int("axis", -1), len(node.outputs)
            if node.op_type == "LayerNormalization" and form != (-1, 1):
                raise PreconditionError(f"the pass {self.name!r} does not know the form of {name_of(node)}")

    def find(self, model: ir.Model) -> list[ir.Node]:
        """The functions that are newer than the model's opset."""
        opset = model.opset_imports[""]
        return [node for node in model.graph if node.op_type in _WRITERS and not onnx.defs.has(node.op_type, opset)]

    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Puts older operators in the place of a function."""
        parts = _Parts(model.graph, node, model.opset_imports[""])
        _WRITERS[node.op_type](parts, node)
        parts.replace()


class _Parts:
    """The operators that take a node's place."""

    def __init__(self, graph: ir.Graph, node: ir.Node, opset: int) -> None:
        self._graph, self._node, self._opset = graph, node, opset
        self._nodes: list[ir.Node] = []

    def op(self, op_type: str, key: str, *inputs: ir.Value | None, **attributes: int | tuple[int, ...]) -> ir.Value:
        name = f"{self._node.name}.{key}"
        self._nodes.append(ir.node(op_type, inputs, attributes, outputs=[ir.val(name)], name=name))
        return self._nodes[-1].outputs[0]

    def constant(self, key: str, value: float) -> ir.Value:
        return initializer(self._graph, f"{self._node.name}.{key}", scalar(value, np.float32))

    def mean(self, key: str, x: ir.Value | None) -> ir.Value:
        """The mean along the last dimension, which stays with size 1."""
        if self._opset < _AXES_AS_INPUT:
            return self.op("ReduceMean", key, x, axes=(-1,), keepdims=1)
        axes = initializer(self._graph, f"{self._node.name}.{key}.axes", np.array([-1], dtype=np.int64))
        return self.op("ReduceMean", key, x, axes, keepdims=1)

    def replace(self) -> None:
        """Puts the operators in the place of the node, whose name the last one gets."""
        self._graph.insert_before(self._node, self._nodes)
        replace_output(self._graph, self._node, self._nodes[-1])


def _gelu(parts: _Parts, node: ir.Node) -> None:
    x = node.inputs[0]
    if node.attributes.get_string("approximate", "none") == "tanh":
        slope = math.sqrt(2 / math.pi)
        square = parts.op("Mul", "small", parts.op("Mul", "square", x, x), parts.constant("factor", slope * _CUBE))
        steep = parts.op("Mul", "steep", x, parts.op("Add", "bent", square, parts.constant("slope", slope)))
        rising = parts.op("Tanh", "tanh", steep)
    else:
        rising = parts.op("Erf", "erf", parts.op("Mul", "steep", x, parts.constant("slope", math.sqrt(0.5))))
    share = parts.op("Add", "share", rising, parts.constant("one", 1))
    parts.op("Mul", "product", parts.op("Mul", "half", x, parts.constant("one_half", 0.5)), share)


def _mish(parts: _Parts, node: ir.Node) -> None:
    x = node.inputs[0]
    parts.op("Mul", "product", x, parts.op("Tanh", "tanh", parts.op("Softplus", "softplus", x)))


def _layer_norm(parts: _Parts, node: ir.Node) -> None:
    x, gain, *bias = node.inputs
    deviation = parts.op("Sub", "deviation", x, parts.mean("mean", x))
    variance = parts.mean("variance", parts.op("Mul", "squares", deviation, deviation))
    epsilon = parts.constant("epsilon", node.attributes.get_float("epsilon", 1e-5))
    spread = parts.op("Sqrt", "spread", parts.op("Add", "raised", variance, epsilon))
    scaled = parts.op("Mul", "scaled", parts.op("Div", "unit", deviation, spread), gain)
    if bias:
        parts.op("Add", "shifted", scaled, *bias)


_WRITERS: dict[str, Callable[[_Parts, ir.Node], None]] = {
    "Gelu": _gelu,
    "Mish": _mish,
    "LayerNormalization": _layer_norm,
}
