"""The translated network becomes smaller without changing any value."""

import math
from dataclasses import replace

import torch

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.graph.graph import Graph, Node, Weights
from intraq_deploy.graph.ops import Add, Clamp, Conv2d, Flatten, Linear, Multiply, Pad, Reshape


def simplify(graph: Graph) -> Graph:
    """Merges nodes without changing any value.

    Zero padding moves into convolutions, ReLU-like functions onto the nodes before them, scales of channels into the
    layers behind them; a last convolution over the whole map becomes a linear layer; what the logits do not depend on
    is left out. Raises UnsupportedModelError for logits that do not depend on the input.
    """
    return _linear_classifier(_fuse_activations(_fold_scales(_fold_padding(_prune(graph)))))


def _prune(graph: Graph) -> Graph:
    """Leaves out what the logits do not depend on."""
    needed = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    if graph.input.name not in needed:
        raise UnsupportedModelError("The network's logits do not depend on its input.")
    nodes = tuple(node for node in graph.nodes if node.name in needed)
    return replace(graph, nodes=nodes, weights={k: v for k, v in graph.weights.items() if k in needed})


def _fold_padding(graph: Graph) -> Graph:
    """Zero padding of height and width that only convolutions read becomes their own padding. Changes no value."""
    nodes = {node.name: node for node in graph.nodes}
    for pad in graph.nodes:
        readers = graph.consumers(pad.name)
        if not isinstance(pad.op, Pad) or pad.op.before[0] or pad.op.after[0] or pad.name == graph.output:
            continue
        if not all(isinstance(reader.op, Conv2d) for reader in readers):
            continue
        _, h0, w0 = pad.op.before
        _, h1, w1 = pad.op.after
        for reader in readers:
            conv = nodes[reader.name].op
            assert isinstance(conv, Conv2d)
            top, left, bottom, right = conv.padding
            padded = replace(conv, padding=(top + h0, left + w0, bottom + h1, right + w1))
            nodes[reader.name] = replace(nodes[reader.name], op=padded, inputs=pad.inputs)
        del nodes[pad.name]
    return replace(graph, nodes=tuple(nodes.values()))


def _is_scale(graph: Graph, node: Node) -> bool:
    """Whether a node only scales and shifts channels."""
    if not isinstance(node.op, Conv2d) or node.op.groups != node.shape[0] or any(node.op.padding):
        return False
    weight = graph.weights[node.name].weight
    return weight.shape[1:] == (1, 1, 1) and node.op.stride == (1, 1) and bool((weight == 1).all())


def _fold_scales(graph: Graph) -> Graph:
    """Scales of channels that only layers without padding and groups read become part of their weights: W (g x + b) is
    (W g) x + W b. The gain of a LayerNorm is such a scale; a batch norm with a ReLU behind it is not."""
    nodes, weights = {node.name: node for node in graph.nodes}, dict(graph.weights)
    for node in graph.nodes:
        readers = graph.consumers(node.name)
        if not _is_scale(graph, node) or not readers or not all(_takes_scale(reader) for reader in readers):
            continue
        gain, shift = graph.weights[node.name].folded()
        for reader in readers:
            weights[reader.name] = _scaled(weights[reader.name], gain.flatten(), shift)
            nodes[reader.name] = replace(nodes[reader.name], inputs=node.inputs)
        del nodes[node.name], weights[node.name]
    return replace(graph, nodes=tuple(nodes.values()), weights=weights)


def _takes_scale(reader: Node) -> bool:
    return isinstance(reader.op, Conv2d) and reader.op.groups == 1 and not any(reader.op.padding)


def _scaled(weights: Weights, gain: torch.Tensor, shift: torch.Tensor) -> Weights:
    bias = weights.weight.flatten(2).sum(2) @ shift
    if weights.bias is not None:
        bias = bias + weights.bias
    return replace(weights, weight=weights.weight * gain.reshape(1, -1, 1, 1), bias=bias)


def _contains(outer: Clamp, inner: Clamp) -> bool:
    return outer.low <= inner.low and inner.high <= outer.high


def _fuse_activations(graph: Graph) -> Graph:
    """Clamps become activations of the nodes before them. Changes no value.

    A clamp that alone reads a convolution, linear layer, sum or product becomes that node's activation; one that clamps
    what is already within its bounds (a ReLU behind a ReLU) goes.
    """
    nodes = {node.name: node for node in graph.nodes}
    renamed: dict[str, str] = {}
    for clamp in graph.nodes:
        inputs = tuple(renamed.get(name, name) for name in clamp.inputs)
        nodes[clamp.name] = replace(clamp, inputs=inputs)
        if not isinstance(clamp.op, Clamp):
            continue
        source = nodes[inputs[0]]
        already = source.op if isinstance(source.op, Clamp) else source.activation
        if already is not None and _contains(clamp.op, already):
            renamed[clamp.name] = source.name
            del nodes[clamp.name]
            continue
        alone = len(graph.consumers(clamp.inputs[0])) == 1 and clamp.inputs[0] != graph.output
        if alone and source.activation is None and isinstance(source.op, Conv2d | Linear | Add | Multiply):
            nodes[source.name] = replace(source, activation=clamp.op)
            renamed[clamp.name] = source.name
            del nodes[clamp.name]
    return replace(graph, nodes=tuple(nodes.values()), output=renamed.get(graph.output, graph.output))


def _linear_classifier(graph: Graph) -> Graph:
    """A convolution over the whole map that makes the logits becomes the linear layer that it is. Changes no value.

    Only a linear layer's logits are made of integers (targets.onnx): behind a convolution they would be float32.
    """
    shapes, layer = [], graph[graph.output]
    while isinstance(layer.op, Flatten | Reshape):
        shapes.append(layer)
        layer = graph[layer.inputs[0]]
        if len(graph.consumers(layer.name)) != 1:
            return graph
    if not shapes or not isinstance(layer.op, Conv2d) or layer.op.groups != 1 or layer.activation is not None:
        return graph
    (source,), weights = layer.inputs, graph.weights[layer.name]
    if any(layer.op.padding) or weights.weight.shape[2:] != graph[source].shape[1:]:
        return graph
    flat = Node(shapes[0].name, Flatten(), (source,), (math.prod(graph[source].shape),))
    linear = Node(layer.name, Linear(), (flat.name,), (layer.shape[0],))
    others = [node for node in graph.nodes if node is not layer and node not in shapes]
    flattened = replace(weights, weight=weights.weight.flatten(1))
    return Graph((*others, flat, linear), linear.name, {**graph.weights, linear.name: flattened})
