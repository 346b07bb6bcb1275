"""The program that a file for TensorRT computes, and the tolerances of the runtimes that run it.

Without TensorRT, ONNX Runtime runs every operator as it is written, in float32: the rehearsal. That shows whether the
file says what the Program says. Its convolutions sum floats, where an engine's sum integers, so a few codes near the
middle between two differ. What an engine itself computes is compared where it runs.
"""

from dataclasses import replace

from intraq_deploy.graph.ops import Clamp
from intraq_deploy.program.arithmetic import accumulator_scale, f32
from intraq_deploy.program.program import FloatWeights, Grid, IntegerWeights, LayerWeights, Program, Tolerance
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnx.canonical import codes_name
from intraq_deploy.targets.onnx.tensorrt import clipped_name

_CODES = Tolerance("ONNX Runtime sums it in float32, in TensorRT's place", 1e-4)
_LOGITS = Tolerance("ONNX Runtime sums them in float32, in TensorRT's place", 1e-5)
_ENGINE_LOGITS = Tolerance("TensorRT rounds in another order, and trtexec writes six digits", 2e-5)
_HALF = "its layer multiplies float16 by INT4 weights"
_HALF_CODES, _HALF_LOGITS = Tolerance(_HALF, 2e-2), Tolerance(_HALF, 5e-3)


def rehearsed(artifact: Artifact, program: Program) -> Program:
    """The program that an artifact computes, with the tolerances of a rehearsal. program: the one behind it."""
    return _as_written(artifact, program, _CODES, _LOGITS)


def engine_program(artifact: Artifact, program: Program) -> Program:
    """The program that an artifact computes, with an engine's tolerances: exact tensors stay exact, up to rounding
    (`program.ties`). program: the one behind the artifact."""
    return _as_written(artifact, program, None, _ENGINE_LOGITS)


def _as_written(artifact: Artifact, program: Program, codes: Tolerance | None, logits: Tolerance) -> Program:
    """The program as its file computes it: layers with INT4 weights read unquantized inputs, and multiply in float."""
    made = {str(value.name) for node in artifact.model.graph for value in node.outputs}
    grids = {name: grid for name, grid in program.grids.items() if codes_name(name) in made}
    absent = program.grids.keys() - grids
    nodes = tuple(
        replace(node, activation=_bounds(program.grids[node.name]))
        if node.name in absent and clipped_name(node.name) in made
        else node
        for node in program.graph.nodes
    )
    layers = {
        name: _in_float(program, name, weights) if program.graph[name].inputs[0] in absent else weights
        for name, weights in program.layers.items()
    }
    halves = {name for name in layers if layers[name] is not program.layers[name]}
    found = {name: _HALF_CODES if name in halves else program.tolerances.get(name, codes) for name in grids}
    found[program.graph.output] = _HALF_LOGITS if program.graph.output in halves else logits
    tolerances = {name: tolerance for name, tolerance in found.items() if tolerance is not None}
    graph = replace(program.graph, nodes=nodes)
    return replace(program, graph=graph, grids=grids, layers=layers, tolerances=tolerances)


def _bounds(grid: Grid) -> Clamp:
    """The Clip in front of a quantizer, which stays where the quantizer is left out."""
    return Clamp(f32(f32(grid.scale) * grid.code_min), f32(f32(grid.scale) * grid.code_max))


def _in_float(program: Program, name: str, weights: LayerWeights) -> LayerWeights:
    if not isinstance(weights, IntegerWeights):
        return weights
    grid = program.grids[program.graph[name].inputs[0]]
    bias = weights.bias_codes * accumulator_scale(grid.scale, weights.scale)
    return FloatWeights(weights.codes, weights.scale, bias)
