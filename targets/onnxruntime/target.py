"""ONNX files of every target: writes the model, opens it as shipped, opens it with its integers in view.

ONNX Runtime opens them all. Where it is not the target's own runtime, it rehearses: every operator as it is written.
"""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
from intraq_deploy.targets.artifact import Artifact, sha256_of, write_manifest
from intraq_deploy.targets.onnx.lower import instrument, lower, serialize
from intraq_deploy.targets.onnx.sizes import itemise
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.profile import TargetProfile, load_profile

from intraq_deploy.files import write_atomically
from intraq_deploy.program.program import Program
from intraq_deploy.program.storage import program_sha256

MODEL = "model.onnx"


def export(program: Program, profile: TargetProfile, folder: Path, metadata: Mapping[str, str]) -> Artifact:
    """Writes `folder`/model.onnx and its manifest; `folder` exists. metadata: goes into the model's properties."""
    sha256 = program_sha256(program)
    model = lower(program, profile, properties(program, sha256, metadata))
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


def properties(program: Program, sha256: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """What a model file says of itself: metadata, what it takes, and of which program it was made."""
    takes = "float32, (pixel / 255 - mean) / std" if program.normalization is None else "uint8 pixels"
    return {**metadata, "input": takes, "program_sha256": sha256}


def is_rehearsed(artifact: Artifact) -> bool:
    """Whether the target's runtime is on the device only: what is seen here says nothing about its speed."""
    return load_profile(artifact.target).runtime != "onnxruntime"


def open_shipped(artifact: Artifact, threads: int = 0) -> Session:
    """The artifact, as a user runs it. threads: 0 lets ONNX Runtime decide."""
    artifact.verify()
    return Session(artifact.path, threads=threads, optimised=not is_rehearsed(artifact))


def open_instrumented(artifact: Artifact, program: Program) -> Session:
    """The artifact with the codes of every quantized tensor as further outputs."""
    artifact.verify()
    model = serialize(instrument(ir.load(artifact.path), program))
    return Session(model, optimised=not is_rehearsed(artifact))


def stored_zero_points(program: Program) -> dict[str, int]:
    """With which zero-point each quantized tensor's codes are stored."""
    return {name: grid.unsigned_zero_point for name, grid in program.grids.items()}
