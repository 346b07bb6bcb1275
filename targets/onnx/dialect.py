"""Dialect passes: each makes canonical Q/DQ ONNX more like the form that a runtime executes on integers.

Profiles name the passes they want, in order. A pass is a contract that is checked around every call: what it `requires`
of a model, and what it `ensures`.
"""

from abc import abstractmethod
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, PreconditionError

from intraq_deploy.program.program import Grid
from intraq_deploy.targets.onnx.canonical import GRID
from intraq_deploy.targets.onnx.findings import name_of


class DialectPass(InPlacePass):
    """A pass that changes every node that it finds, in place. Called, it raises PreconditionError for a model that is
    not as it requires, and PostconditionError where it leaves one that it should have changed."""

    name: ClassVar[str]
    """The name by which profiles ask for the pass."""
    after: ClassVar["type[DialectPass] | None"] = None
    """The pass that has to run before: this one requires what that one ensures."""

    @abstractmethod
    def find(self, model: ir.Model) -> list[ir.Node]:
        """The nodes that are still to be changed, in the graph's order; none once the pass has run."""

    @abstractmethod
    def change(self, model: ir.Model, node: ir.Node) -> None:
        """Changes one of the nodes that `find` gave, or puts others in its place."""

    def requires(self, model: ir.Model) -> None:
        """Checks that the pass before has run. Raises PreconditionError for a node that it should have changed."""
        left = [] if self.after is None else self.after().find(model)
        if left and self.after is not None:
            raise PreconditionError(
                f"the pass {self.name!r} needs {self.after.name!r} before it, which {name_of(left[0])} has not seen"
            )

    def call(self, model: ir.Model) -> PassResult:
        """Changes every node that `find` gives."""
        found = self.find(model)
        for node in found:
            self.change(model, node)
        return PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """Checks that the pass has done its work. Raises PostconditionError for a node that is left."""
        left = self.find(model)
        if left:
            raise PostconditionError(f"the pass {self.name!r} left {name_of(left[0])} as it was")


def replace_output(graph: ir.Graph, last: ir.Node, producer: ir.Node) -> None:
    """Lets `producer` make what `last` made, under its name, and removes `last`."""
    old, new = last.outputs[0], producer.outputs[0]
    name = old.name
    if old.is_graph_output():
        new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.meta.update(old.meta)
    graph.remove(last, safe=True)
    new.name = producer.name = name


def producer_of(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes a value; None if it is not one of those operators, or if no node makes it."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types else None


def grid_of(value: ir.Value | None) -> Grid | None:
    """The grid of a value of codes; None for other values."""
    grid = None if value is None else value.meta.get(GRID)
    return grid if isinstance(grid, Grid) else None


def constant_dequantizers(model: ir.Model, dtype: ir.DataType) -> list[ir.Node]:
    """Every DequantizeLinear of a constant of that type."""
    return [node for node in model.graph if node.op_type == "DequantizeLinear" and _is_constant(node.inputs[0], dtype)]


def _is_constant(value: ir.Value | None, dtype: ir.DataType) -> bool:
    return value is not None and value.const_value is not None and value.dtype == dtype
