"""Functions and subgraphs of ONNX models, made visible: calls are inlined, and names of nodes say where they are."""

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from intraq_deploy.targets.onnx.findings import name_of

_NAME = "name"
"""The key in `Node.meta` of a node's name in its function."""
_CALL = "intraq-deploy.call."
"""The key in a call's `Node.meta` of its key in `Node.metadata_props`. The nodes that take its place inherit that one,
so that they list the calls around them, the outermost first."""


def inline(model: ir.Model) -> None:
    """Puts the bodies of the model's functions in the place of their calls.

    Calls of functions of another opset, or with a graph for an attribute, stay.
    """
    if not model.functions:
        return
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    calls = [call for graph in graphs for call in calls_in(graph, model)]
    for index, call in enumerate(calls):
        call.meta[_CALL] = f"{_CALL}{index}"
        call.metadata_props[f"{_CALL}{index}"] = f"{call.op_type} ({name_of(call)})"
    for function in model.functions.values():
        _prepare(function)
    imports = dict(model.opset_imports)
    with_graphs = {call.op_identifier() for call in calls if any(_subgraphs(call))}

    def fits(function: ir.Function) -> bool:
        versions = function.opset_imports.items()
        return function.identifier() not in with_graphs and all(imports.setdefault(d, v) == v for d, v in versions)

    InlinePass(criteria=fits)(model)
    for call in calls_in(model.graph, model):
        call.metadata_props.pop(call.meta[_CALL])


def calls_in(graph: ir.Graph | ir.Function, model: ir.Model) -> list[ir.Node]:
    """The nodes of a graph that call functions of the model."""
    return [node for node in graph.all_nodes() if node.op_identifier() in model.functions]


def _prepare(function: ir.Function) -> None:
    """Keeps the names of a function's nodes, and gives its values names that no graph around a call has. onnx-ir does
    not look for names in subgraphs."""
    for node in function.all_nodes():
        node.meta[_NAME] = name_of(node)
    for node in function.all_nodes():
        for value in node.outputs:
            value.name = f"{function.name}/{value.name}"


def name_places(model: ir.Model) -> None:
    """Names nodes of subgraphs "NODE in then_branch of OWNER", inlined ones "NODE in FUNCTION (CALL)".

    Subgraphs get the model's opsets too, which onnx-ir leaves to the graph around them.
    """
    _name(model.graph, "", frozenset(), model.opset_imports)


def _name(graph: ir.Graph, place: str, known: frozenset[str], opsets: dict[str, int]) -> None:
    """Names the nodes of one graph. known: the calls that `place` names already."""
    graph.opset_imports.update(opsets)
    for node in graph:
        calls = {key: call for key, call in node.metadata_props.items() if key.startswith(_CALL)}
        if place or calls:
            around = [call for key, call in calls.items() if key not in known]
            node.name = " in ".join(filter(None, [node.meta.get(_NAME, name_of(node)), *reversed(around), place]))
        for key, subgraph in _subgraphs(node):
            _name(subgraph, f"{key} of {name_of(node)}", known | calls.keys(), opsets)


def _subgraphs(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from ((attribute.name, graph) for graph in attribute.as_graphs())
