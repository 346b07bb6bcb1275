"""ONNX files of every target: writes the model, opens it as shipped, opens it with its integers in view.

ONNX Runtime opens them all. Where it is not the target's own runtime, or the target's provider does not load, its CPU
provider rehearses: every operator as it is written.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from intraq_deploy.files import write_atomically
from intraq_deploy.program.program import Program
from intraq_deploy.targets.artifact import Artifact, sha256_of, write_manifest
from intraq_deploy.targets.onnx.lower import instrument, lower, serialize
from intraq_deploy.targets.onnx.sizes import itemise
from intraq_deploy.targets.onnxruntime.gpu import TensorRTSession
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.providers import TENSORRT, Provider, why_absent
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.profile import TargetProfile

MODEL, CACHE = "model.onnx", "engines"
"""CACHE: beside the model, what the TensorRT provider keeps."""


def export(program: Program, profile: TargetProfile, folder: Path, metadata: Mapping[str, str]) -> Artifact:
    """Writes `folder`/model.onnx and its manifest; `folder` exists. metadata: goes into the model's properties.

    Raises TargetError for a program that the target would refuse or compute wrongly.
    """
    return write(lowered(program, profile, metadata), program, profile, folder)


def lowered(program: Program, profile: TargetProfile, metadata: Mapping[str, str]) -> ir.Model:
    """The model that `export` writes, and what it raises."""
    return lower(program, profile, properties(program, program.sha256, metadata))


def write(model: ir.Model, program: Program, profile: TargetProfile, folder: Path) -> Artifact:
    """`folder`/model.onnx and its manifest, of a lowered program."""
    path = folder / MODEL
    data = serialize(model)
    write_atomically(path, data)
    artifact = Artifact(
        target=profile.name,
        runtime=profile.runtime,
        path=path,
        bytes=len(data),
        items=itemise(model, len(data)),
        sha256=sha256_of(path),
        program_sha256=program.sha256,
    )
    write_manifest(artifact)
    return artifact


def properties(program: Program, sha256: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """What a model file says of itself: metadata, what it takes, and of which program it was made."""
    takes = "float32, (pixel / 255 - mean) / std" if program.normalization is None else "uint8 pixels"
    return {**metadata, "input": takes, "program_sha256": sha256}


def loaded_provider(artifact: Artifact) -> Provider | None:
    """That of ONNX Runtime's for GPUs which runs the artifact here."""
    provider = _provider_of(artifact)
    return provider if provider is not None and why_absent(provider) is None else None


def why_rehearsed(artifact: Artifact) -> str | None:
    """Why a target's provider does not run here; None where it does, and for targets of no provider."""
    provider = _provider_of(artifact)
    return None if provider is None else why_absent(provider)


def is_rehearsed(artifact: Artifact) -> bool:
    """Whether the target's runtime or provider is not here: what is seen then says nothing about its speed."""
    return artifact.runtime != "onnxruntime" and loaded_provider(artifact) is None


def _provider_of(artifact: Artifact) -> Provider | None:
    return TENSORRT if artifact.runtime == "onnxruntime-tensorrt" else None


def open_shipped(artifact: Artifact, threads: int = 0) -> Session:
    """The artifact, as a user runs it. threads: of the CPU; 0 lets ONNX Runtime decide."""
    artifact.verify()
    return _open(artifact, artifact.path, threads)


def open_instrumented(artifact: Artifact, program: Program) -> Session:
    """The artifact with the codes of every quantized tensor as further outputs."""
    artifact.verify()
    return _open(artifact, serialize(instrument(ir.load(artifact.path), program)))


def _open(artifact: Artifact, model: bytes | Path, threads: int = 0) -> Session:
    if loaded_provider(artifact) is None:
        return Session(model, threads=threads, optimised=not is_rehearsed(artifact))
    data = model.read_bytes() if isinstance(model, Path) else model
    # Engines are for one model and one version of ONNX Runtime; their own names say for which GPU.
    key = hashlib.sha256(data).hexdigest()[:12]
    return TensorRTSession(data, artifact.path.parent / CACHE / f"{key}-{onnxruntime().__version__}")


def stored_zero_points(program: Program) -> dict[str, int]:
    """With which zero-point each quantized tensor's codes are stored where they are stored as UINT8."""
    return {name: grid.unsigned_zero_point for name, grid in program.grids.items()}
