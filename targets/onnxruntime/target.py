"""The ONNX Runtime target: writes the model, opens it as shipped, opens it with its integers in view."""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
from intraq_deploy.targets.artifact import Artifact, sha256_of, write_manifest
from intraq_deploy.targets.onnx.lower import instrument, lower, serialize
from intraq_deploy.targets.onnx.sizes import itemise
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.profile import TargetProfile

from intraq_deploy.files import write_atomically
from intraq_deploy.program.program import Program
from intraq_deploy.program.storage import program_sha256

MODEL = "model.onnx"


def export(program: Program, profile: TargetProfile, folder: Path, metadata: Mapping[str, str]) -> Artifact:
    """Writes `folder`/model.onnx and its manifest; `folder` exists. metadata: goes into the model's properties."""
    sha256 = program_sha256(program)
    model = lower(program, profile, {**metadata, "input": _input(program), "program_sha256": sha256})
    path = folder / MODEL
    data = serialize(model)
    write_atomically(path, data)
    artifact = Artifact(
        target=profile.name,
        path=path,
        bytes=len(data),
        items=itemise(model, len(data)),
        sha256=sha256_of(path),
        program_sha256=sha256,
    )
    write_manifest(artifact)
    return artifact


def _input(program: Program) -> str:
    """For people who read the model's properties."""
    return "float32, (pixel / 255 - mean) / std" if program.normalization is None else "uint8 pixels"


def open_shipped(artifact: Artifact, threads: int = 0) -> Session:
    """The artifact, as a user runs it."""
    artifact.verify()
    return Session(artifact.path, threads=threads)


def open_instrumented(artifact: Artifact, program: Program) -> Session:
    """The artifact with the codes of every quantized tensor as further outputs."""
    artifact.verify()
    return Session(serialize(instrument(ir.load(artifact.path), program)))


def stored_zero_points(program: Program) -> dict[str, int]:
    """With which zero-point each quantized tensor's codes are stored."""
    return {name: grid.unsigned_zero_point for name, grid in program.grids.items()}
