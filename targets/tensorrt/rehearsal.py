"""TensorRT's file without TensorRT: ONNX Runtime runs every operator as it is written, in float32.

That shows whether the file says what the Program says. Its convolutions sum floats, where an engine's sum integers, so
a few codes near the middle between two differ; what an engine itself computes is compared where it runs.
"""

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnx.canonical import codes_name
from intraq_deploy.targets.onnx.lower import instrument, serialize
from intraq_deploy.targets.onnxruntime.session import Session

from intraq_deploy.program.program import Program, Tolerance

_CODES = Tolerance("ONNX Runtime sums it in float32, in TensorRT's place", 1e-4)
_LOGITS = Tolerance("ONNX Runtime sums them in float32, in TensorRT's place", 1e-5)
_HALF_LOGITS = Tolerance("their layer multiplies float16 by INT4 weights", 2e-2)


def open_rehearsal(artifact: Artifact, threads: int = 0) -> Session:
    """The file as it is. threads: 0 lets ONNX Runtime decide."""
    artifact.verify()
    return Session(artifact.path, threads=threads, optimised=False)


def open_instrumented(artifact: Artifact, program: Program) -> Session:
    """The same, with the codes of the quantized tensors that the file has as further outputs."""
    artifact.verify()
    return Session(serialize(instrument(ir.load(artifact.path), program)), optimised=False)


def zero_points(artifact: Artifact, program: Program) -> dict[str, int]:
    """Of the stored bytes, by tensor of the program that the file has: a layer with INT4 weights reads its input before
    it is quantized."""
    made = {str(value.name) for node in ir.load(artifact.path).graph for value in node.outputs}
    return {name: 0 for name in program.grids if codes_name(name) in made}


def rehearsed(program: Program, present: Mapping[str, int]) -> Program:
    """The program with the tolerances of a rehearsal. present: the tensors that the file has."""
    absent = program.grids.keys() - present
    logits = _HALF_LOGITS if absent else _LOGITS
    tolerances = {name: program.tolerances.get(name, _CODES) for name in present}
    return replace(program, tolerances=tolerances | {program.graph.output: logits})
