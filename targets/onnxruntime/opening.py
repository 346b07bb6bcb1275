"""ONNX files of every target, opened with ONNX Runtime: as they are shipped, or with their integers in view.

Where ONNX Runtime is not the target's own runtime, or the target's provider does not load, its CPU provider rehearses:
it runs every operator as it is written.
"""

import hashlib
from pathlib import Path

from intraq_deploy.program.program import Program
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnx.lower import instrument, serialize
from intraq_deploy.targets.onnxruntime.gpu import TensorRTSession
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.providers import TENSORRT, Provider, why_absent
from intraq_deploy.targets.onnxruntime.session import Session

CACHE = "engines"
"""The folder beside the model in which the TensorRT provider keeps its engines."""


def loaded_provider(artifact: Artifact) -> Provider | None:
    """ONNX Runtime's provider for GPUs that runs the artifact here; None where there is none, or it does not load."""
    provider = _provider_of(artifact)
    return provider if provider is not None and why_absent(provider) is None else None


def why_rehearsed(artifact: Artifact) -> str | None:
    """The reason why a target's provider does not run here; None where it does, and for targets without a provider."""
    provider = _provider_of(artifact)
    return None if provider is None else why_absent(provider)


def is_rehearsed(artifact: Artifact) -> bool:
    """Whether the target's runtime or provider is not here: the file's speed here then says nothing about it."""
    return artifact.runtime != "onnxruntime" and loaded_provider(artifact) is None


def _provider_of(artifact: Artifact) -> Provider | None:
    return TENSORRT if artifact.runtime == "onnxruntime-tensorrt" else None


def open_shipped(artifact: Artifact, threads: int = 0) -> Session:
    """A session of the artifact, as a user runs it. threads: of the CPU; 0 lets ONNX Runtime decide.

    Raises RunError for a file that is missing or changed, TargetError for one that ONNX Runtime refuses.
    """
    artifact.verify()
    return _open(artifact, artifact.path, threads)


def open_instrumented(artifact: Artifact, program: Program) -> Session:
    """A session of the artifact with the codes of every quantized tensor as further outputs.

    Raises RunError for a file that is missing or changed, TargetError for one that ONNX Runtime refuses.
    """
    artifact.verify()
    return _open(artifact, serialize(instrument(artifact.model, program)))


def _open(artifact: Artifact, model: bytes | Path, threads: int = 0) -> Session:
    if loaded_provider(artifact) is None:
        return Session(model, threads=threads, optimised=not is_rehearsed(artifact))
    data = model.read_bytes() if isinstance(model, Path) else model
    # Engines are for one model and one version of ONNX Runtime; their own names say for which GPU.
    key = hashlib.sha256(data).hexdigest()[:12]
    return TensorRTSession(data, artifact.path.parent / CACHE / f"{key}-{onnxruntime().__version__}")
