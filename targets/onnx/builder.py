"""Helpers for writing ONNX graphs with onnx-ir: unique names, initializers, nodes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class Builder:
    """A collection of the nodes and initializers of one graph, in order."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """The initializer of that name, made once. array: any shape and dtype.

        Raises ValueError if `name` already has other values.
        """
        known = self.initializers.get(name)
        if known is None:
            tensor = ir.tensor(array, name=name)
            self.initializers[name] = known = ir.val(name, tensor.dtype, array.shape, const_value=tensor)
        elif known.const_value is None or not np.array_equal(known.const_value.numpy(), array):
            raise ValueError(f"two constants named {name}")
        return known

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        output: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """A node with one output of that name; its own name is the output's."""
        value = ir.val(output)
        node = ir.node(op_type, inputs, attributes or {}, outputs=[value], name=output)
        self.nodes.append(node)
        return value


def scalar(value: float, dtype: type[np.generic]) -> NDArray[Any]:
    """An array of shape [] and the given dtype, with one number."""
    return np.array(value, dtype=dtype)


def initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer of a graph, with the array's values. array: any shape and dtype."""
    tensor = ir.tensor(array, name=name)
    value = ir.val(name, tensor.dtype, array.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def array(value: ir.Value | None) -> NDArray[Any]:
    """The values of a constant, of any shape and dtype."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def set_constant(old: ir.Value | None, values: NDArray[Any]) -> ir.Value:
    """Gives an initializer other values, of any shape and dtype, under its name."""
    assert old is not None
    old.const_value = ir.tensor(values, name=old.name)
    old.dtype, old.shape = old.const_value.dtype, ir.Shape(values.shape)
    return old
