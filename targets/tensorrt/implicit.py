"""Implicit quantization, for TensorRT up to 10 and for the DLA: a float network, and a cache of scales beside it.

TensorRT then decides by itself which layers run in INT8. Activations keep the program's grids: a cache's scale is a
step, INT8 codes reach from -128 to 127, and so do those of a symmetric 8-bit quantizer. A range that an activation
narrows (ReLU6) keeps the quantizer's step as well, which leaves concatenated tensors the one scale that the DLA wants.
Weights TensorRT quantizes again, from the float values, with a channel's greatest magnitude over 127. So this is close
to the program, and not equal to it, integer for integer, as model.onnx is.

A layer needs scales of its input and its output. What stands in front of a ReLU-like function gets the scale that is
behind it, as NVIDIA's qdq-translator has it too: both quantize to the same codes, the function being monotone, and no
layer is left in float for want of a scale. Tensors that the program leaves in float have none, the logits first of all:
what makes them runs in float.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from intraq_deploy.files import write_atomically
from intraq_deploy.graph.graph import Node
from intraq_deploy.program.arithmetic import accumulator_scale
from intraq_deploy.program.program import FloatWeights, IntegerWeights, Program, UnquantizedWeights
from intraq_deploy.targets.artifact import Artifact, write_manifest
from intraq_deploy.targets.onnx.canonical import real_names
from intraq_deploy.targets.onnx.export import properties
from intraq_deploy.targets.onnx.lower import lower
from intraq_deploy.targets.profile import TargetProfile
from intraq_deploy.targets.tensorrt.calibration import write_cache

FLOAT_MODEL, CACHE = "float.onnx", "calibration.cache"
_BITS, _LOWEST, _HIGHEST = 8, -128, 127


def add_cache(artifact: Artifact, program: Program, profile: TargetProfile, metadata: Mapping[str, str]) -> Artifact:
    """Writes float.onnx and calibration.cache beside an artifact of `program`, and both into its manifest.

    Writes nothing for a program whose quantizers scales alone do not describe (`is_expressible`). profile: with a
    `calibration_cache`. metadata: goes into the model's properties.

    Raises TargetError for a float network that the target would refuse, and for a scale that a cache cannot hold.
    """
    if profile.calibration_cache is None or not is_expressible(program):
        return artifact
    floating = lower(float_network(program), profile, properties(program, artifact.program_sha256, metadata))
    files = {FLOAT_MODEL: floating.data, CACHE: write_cache(scales(program), profile.calibration_cache).encode()}
    for name, data in files.items():
        write_atomically(artifact.path.with_name(name), data)
    companions = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    whole = replace(artifact, companions=companions)
    write_manifest(whole)
    return whole.with_model(artifact.model)


def is_expressible(program: Program) -> bool:
    """Whether all quantized tensors have signed 8-bit codes. TensorRT would use all 8 bits where there are fewer."""
    return all(
        grid.bits == _BITS and grid.code_min >= _LOWEST and grid.code_max <= _HIGHEST for grid in program.grids.values()
    )


def scales(program: Program) -> dict[str, float]:
    """The scales of the float network's tensors that the program quantizes, by ONNX name: real values per INT8 step."""
    return {
        name: program.grids[node.name].scale
        for node in program.graph.nodes
        if node.name in program.grids
        for name in real_names(program, node)
    }


def float_network(program: Program) -> Program:
    """The program in float32 without quantizers. Its weights and biases are the values that the codes stand for."""
    layers = {node.name: _values(program, node) for node in program.graph.layers()}
    return Program(program.graph, {}, layers, normalization=program.normalization)


def _values(program: Program, node: Node) -> UnquantizedWeights:
    weights = program.layers[node.name]
    if isinstance(weights, IntegerWeights):
        scale = accumulator_scale(program.grids[node.inputs[0]].scale, weights.scale)
        weights = FloatWeights(weights.codes, weights.scale, weights.bias_codes.float() * scale)
    return UnquantizedWeights(weights.weight(), weights.bias)
