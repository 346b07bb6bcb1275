"""A thin hand for writing ONNX graphs with onnx-ir: unique names, initializers, nodes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class Builder:
    """Collects nodes and initializers of one graph, in order."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """An initializer; asking again for the same gives the first one. Raises ValueError if `name` has another."""
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
    """A 0-dim array."""
    return np.array(value, dtype=dtype)
