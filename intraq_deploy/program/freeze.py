"""Freezing: a settled fake-quant module becomes a Program. Before it floats and gradients, after it integers."""

import torch

from intraq_deploy.errors import FreezeError
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import (
    HAS_WEIGHT,
    MOVES_DATA,
    Add,
    AveragePool2d,
    ChannelNorm,
    Clamp,
    Input,
    Multiply,
    Unary,
    UnitNorm,
)
from intraq_deploy.program.arithmetic import accumulator_scale
from intraq_deploy.program.bounds import accumulator_bound
from intraq_deploy.program.grids import grid_of
from intraq_deploy.program.program import (
    FloatWeights,
    Grid,
    IntegerWeights,
    LayerWeights,
    Normalization,
    Program,
    Tolerance,
    UnquantizedWeights,
)
from intraq_deploy.program.settle import unsettled
from intraq_deploy.quantization.network import FakeQuantNetwork

LARGEST_ACCUMULATOR = 1 << 31
FLOAT_CODES = 1e-3
"""The share of codes that may differ by one behind a sum in float32, whose order moves values over rounding boundaries.
Measured: 7e-6 at most (docs/exactness.md)."""
FLOAT_LOGITS = 1e-4
"""The share of the largest logit that the order of summation in float32 changes, with room."""


def freeze(network: FakeQuantNetwork, normalization: Normalization | None = None) -> Program:
    """Freezes `network`, which is on the CPU and settled (`settle.settle`), into a program.

    normalization: for a program that takes uint8 images. Raises FreezeError for a network that is not settled, or a
    layer whose accumulator could leave int32.
    """
    problems = unsettled(network)
    if problems:
        raise FreezeError(f"The network is not settled ({problems[0]}): call settle before freeze.")
    graph = network.graph
    grids = {node.name: grid for node in graph.nodes if (grid := grid_of(network, node.name)) is not None}
    layers = {node.name: _freeze_layer(network, node, grids) for node in graph.layers()}
    program = Program(graph, grids, layers, normalization=normalization)
    return Program(graph, grids, layers, _tolerances(program), normalization)


def float_program(graph: Graph, normalization: Normalization | None = None) -> Program:
    """The float network as a program without any quantizer, with which accuracy, size and speed are compared."""
    layers = {node.name: UnquantizedWeights(*graph.weights[node.name].folded()) for node in graph.layers()}
    return Program(graph.topology(), {}, layers, normalization=normalization)


def _freeze_layer(network: FakeQuantNetwork, node: Node, grids: dict[str, Grid]) -> LayerWeights:
    layer = network.layer(node.name)
    with torch.no_grad():
        codes, scale = layer.codes()
        bias = layer.bias()
    stored = codes.to(torch.int8)
    if not torch.equal(stored.to(torch.int32), codes):
        raise FreezeError(f"{node.name}: a weight's code leaves a signed byte: {int(codes.abs().max())}.")
    if not network.placement.layers[node.name].integer:
        # The batch norm's gain of a channel that is exactly dead is zero, and so is its scale: its values are right.
        return FloatWeights(stored, scale.detach().clone(), bias.clone())
    grid = grids[node.inputs[0]]
    bias_codes = (bias / accumulator_scale(grid.scale, scale)).round().to(torch.int32)
    weights = IntegerWeights(stored, scale.detach().clone(), bias_codes)
    largest = int(accumulator_bound(weights, grid).max())
    if largest >= LARGEST_ACCUMULATOR:
        raise FreezeError(
            f"{node.name}: its accumulator can reach {largest}, beyond int32's {LARGEST_ACCUMULATOR - 1}: "
            "use fewer bits for its weights or its input."
        )
    return weights


def _tolerances(program: Program) -> dict[str, Tolerance]:
    """A tensor is exact if the codes that it is made from leave no choice; everything else says why not."""
    causes: dict[str, str] = {}
    for node in program.graph.nodes:
        cause = _cause(program, node, causes)
        if cause is not None:
            causes[node.name] = cause
    tolerances = {name: Tolerance(cause, FLOAT_CODES) for name, cause in causes.items() if name in program.grids}
    output = program.graph.output
    return tolerances | ({output: Tolerance(causes[output], FLOAT_LOGITS)} if output in causes else {})


def _cause(program: Program, node: Node, causes: dict[str, str]) -> str | None:
    """Why the tensor of `node` is not exact, or None."""
    for name in node.inputs:
        if name in causes and name not in program.grids:
            return causes[name] if causes[name].startswith("behind") else f"behind {name}: {causes[name]}"
    # One float32 operation per element is the same everywhere; a sum over many elements is not.
    if program.is_integer(node) or isinstance(node.op, (Input, *MOVES_DATA, Add, Multiply, Clamp)):
        return None
    if isinstance(node.op, AveragePool2d):
        return "windows are averaged in float32"
    if isinstance(node.op, ChannelNorm | UnitNorm):
        return "channels are normalised in float32"
    return "computed in float32" if isinstance(node.op, (*HAS_WEIGHT, Unary)) else "summed in float32"
