"""The ONNX file of a program, for any target: `model.onnx`, and a manifest beside it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from intraq_deploy.files import write_atomically
from intraq_deploy.program.program import Program
from intraq_deploy.targets.artifact import Artifact, write_manifest
from intraq_deploy.targets.onnx.lower import Lowered, lower
from intraq_deploy.targets.onnx.sizes import itemise
from intraq_deploy.targets.profile import TargetProfile

MODEL = "model.onnx"


def export(program: Program, profile: TargetProfile, folder: Path, metadata: Mapping[str, str]) -> Artifact:
    """Writes `folder`/model.onnx and its manifest; `folder` exists. metadata: goes into the model's properties.

    Raises TargetError for a program that the target would refuse or compute wrongly.
    """
    return write(lowered(program, profile, metadata), folder)


def lowered(program: Program, profile: TargetProfile, metadata: Mapping[str, str]) -> Lowered:
    """The program in the profile's dialect, with the properties that its file carries.

    Raises TargetError for a program that the target would refuse or compute wrongly.
    """
    return lower(program, profile, properties(program, program.sha256, metadata))


def write(made: Lowered, folder: Path) -> Artifact:
    """Writes a lowered program as `folder`/model.onnx, and its manifest; `folder` exists."""
    path = folder / MODEL
    write_atomically(path, made.data)
    artifact = Artifact(
        target=made.profile.name,
        runtime=made.profile.runtime,
        path=path,
        bytes=len(made.data),
        items=itemise(made.model, len(made.data)),
        sha256=hashlib.sha256(made.data).hexdigest(),
        program_sha256=made.program.sha256,
    )
    write_manifest(artifact)
    return artifact.with_model(made.model)


def properties(program: Program, sha256: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """The properties that a model file carries: `metadata`, its input, and the hash of the program behind it."""
    takes = "float32, (pixel / 255 - mean) / std" if program.normalization is None else "uint8 pixels"
    return {**metadata, "input": takes, "program_sha256": sha256}
