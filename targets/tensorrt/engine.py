"""Engines: a compiler makes one of an artifact for one GPU. A manifest lies beside it."""

import json
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from intraq_deploy.errors import RunError, TargetError
from intraq_deploy.files import sha256_of, write_atomically
from intraq_deploy.program.program import Program
from intraq_deploy.targets.artifact import MANIFEST, Artifact
from intraq_deploy.targets.onnx.lower import instrument, serialize
from intraq_deploy.targets.onnxruntime.gpu import TensorRTSession, find_gpu
from intraq_deploy.targets.onnxruntime.providers import TENSORRT
from intraq_deploy.targets.profile import TargetProfile
from intraq_deploy.targets.tensorrt.host import Host
from intraq_deploy.targets.tensorrt.layers import computed_in, inspected
from intraq_deploy.targets.tensorrt.rehearsal import engine_program
from intraq_deploy.targets.tensorrt.rtx import compile_model
from intraq_deploy.targets.tensorrt.runtime import BatchedSession

_AHEAD, _HERE, _CONTEXT = "engine.rtx", "engine.plan", "engine.onnx"
INSTRUMENTED, FLOAT16 = "instrumented.plan", "float16.plan"
"""The engine with its integers in view, to be checked; and the float network in float16, to be beaten."""
LAYERS = "layers.json"
"""The file with TensorRT's own description of an engine's layers."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine for GPUs of one compute capability, and for the version that compiled it."""

    target: str
    path: Path
    bytes: int
    sha256: str
    onnx_sha256: str
    compiler: str
    """The compiler's name and version."""
    compute_capability: str
    gpu: str | None
    """The GPU that it was built on, and for; None where it was compiled ahead of time."""
    seconds: float
    layers: dict[str, str]
    """The type in which each convolution and linear layer multiplies (`layers.computed_in`)."""
    beside: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of INSTRUMENTED and FLOAT16 by name, where the engine was built on its GPU."""


def build_ahead(artifact: Artifact, profile: TargetProfile, folder: Path) -> Engine:
    """Compiles `artifact` with TensorRT for RTX into `folder`, which exists. Raises TargetError where it is refused."""
    artifact.verify()
    assert profile.compute_capability is not None
    compiled = compile_model(artifact.path.read_bytes(), profile.compute_capability)
    return _keep(
        artifact,
        folder / _AHEAD,
        compiled.engine,
        compiler=compiled.compiler,
        compute_capability=compiled.capability,
        gpu=None,
        seconds=compiled.seconds,
        layers=computed_in(artifact.model, compiled.layers),
    )


def build_here(
    artifact: Artifact, program: Program, float16: bytes, host: Host, folder: Path, timing_cache: Path
) -> Engine:
    """Builds `artifact`, the same with its integers in view, and the float network with TensorRT for this machine's GPU
    into `folder`, which exists.

    program: the artifact's. float16: the float network as ONNX, in float16.

    Raises TargetError where a model is refused, or memory does not suffice.
    """
    artifact.verify()
    model = artifact.model
    start = time.perf_counter()
    engine = host.build(artifact.path, timing_cache)
    seconds = time.perf_counter() - start
    write_atomically(folder / _HERE, engine)
    information = host.layers(folder / _HERE)
    write_atomically(folder / LAYERS, information)
    models = {
        INSTRUMENTED: serialize(instrument(model, engine_program(artifact, program))),
        FLOAT16: float16,
    }
    for name, data in models.items():
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "model.onnx"
            source.write_bytes(data)
            write_atomically(folder / name, host.build(source, timing_cache, half=name == FLOAT16))
    return _keep(
        artifact,
        folder / _HERE,
        engine,
        compiler=host.product,
        compute_capability=host.compute_capability,
        gpu=host.gpu,
        seconds=seconds,
        layers=computed_in(model, inspected(information)),
        beside={name: sha256_of(folder / name) for name in models},
    )


@dataclass(frozen=True, slots=True)
class EngineSessions:
    """An engine that was built here, opened, with its twins."""

    engine: Engine
    shipped: BatchedSession
    instrumented: BatchedSession
    float16: BatchedSession


def open_engine(engine: Engine, host: Host) -> EngineSessions:
    """Opens an engine and its twins. Raises TargetError for an engine of another version or GPU."""
    names = (engine.path.name, INSTRUMENTED, FLOAT16)
    return EngineSessions(engine, *(host.open(engine.path.parent / name) for name in names))


def build_context(artifact: Artifact, folder: Path) -> Engine:
    """Builds `artifact` with ONNX Runtime's TensorRT provider for this machine's GPU: an ONNX file with the engine in
    it, in `folder`, which exists. Raises TargetError where the provider does not load, or refuses the model."""
    artifact.verify()
    compiler, gpu, capability = find_gpu()
    path, start = folder / _CONTEXT, time.perf_counter()
    TensorRTSession(artifact.path, folder / "timing", path).close()
    if not path.is_file():
        raise TargetError(f"{TENSORRT.name} built an engine and wrote no {path.name}: give it room, and try again.")
    return _keep(
        artifact,
        path,
        path.read_bytes(),
        compiler=compiler,
        compute_capability=capability,
        gpu=gpu,
        seconds=time.perf_counter() - start,
        layers={},
    )


def _keep(artifact: Artifact, path: Path, data: bytes, **about: Any) -> Engine:
    """Writes an engine and, when it is there, its manifest. about: the Engine's other fields."""
    write_atomically(path, data)
    engine = Engine(
        target=artifact.target,
        path=path,
        bytes=len(data),
        sha256=sha256_of(path),
        onnx_sha256=artifact.sha256,
        **about,
    )
    write_atomically(path.parent / MANIFEST, json.dumps(asdict(engine) | {"path": path.name}, indent=1))
    return engine


def read_engine(folder: Path) -> Engine:
    """The engine that a build wrote. Raises RunError if it is not there or not what its manifest says."""
    try:
        values = json.loads((folder / MANIFEST).read_text())
        engine = Engine(**values | {"path": folder / values["path"]})
        if not isinstance(engine.layers, dict):
            raise TypeError("its layers are no table")
        files = {engine.path.name: engine.sha256, **engine.beside}
        whole = all(sha256_of(folder / name) == sha256 for name, sha256 in files.items())
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{folder} holds no readable engine ({error}): run build again.") from error
    if not whole:
        raise RunError(f"{engine.path} is not the file that its manifest describes: run build again.")
    return engine
