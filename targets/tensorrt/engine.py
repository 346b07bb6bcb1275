"""An engine: what a compiler makes of an artifact for one GPU, and a manifest beside it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from intraq_deploy.targets.artifact import MANIFEST, Artifact, sha256_of
from intraq_deploy.targets.profile import TargetProfile
from intraq_deploy.targets.tensorrt.host import Host, build_on, layer_information
from intraq_deploy.targets.tensorrt.layers import computed_in
from intraq_deploy.targets.tensorrt.rtx import compile_model

from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically

_AHEAD, _HERE = "engine.rtx", "engine.plan"
LAYERS = "layers.json"
"""What TensorRT says of an engine's layers."""


@dataclass(frozen=True, slots=True)
class Engine:
    """It runs on GPUs of `compute_capability`, with the version that compiled it."""

    target: str
    path: Path
    bytes: int
    sha256: str
    onnx_sha256: str
    compiler: str
    """Name and version."""
    compute_capability: str
    gpu: str | None
    """That it was built on, and for; None where it was compiled ahead of time."""
    seconds: float
    layers: dict[str, str]
    """In which type each convolution and linear layer multiplies (`layers.computed_in`); none is known of engines that
    were built on their GPU: LAYERS beside them holds what TensorRT says."""


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
        layers=computed_in(ir.load(artifact.path), compiled.layers),
    )


def build_here(artifact: Artifact, host: Host, folder: Path, timing_cache: Path) -> Engine:
    """Builds `artifact` with TensorRT for this machine's GPU into `folder`, which exists. Raises TargetError where it
    is refused, or memory does not suffice."""
    artifact.verify()
    plan = build_on(host, artifact.path.read_bytes(), timing_cache)
    write_atomically(folder / LAYERS, layer_information(host, plan))
    return _keep(
        artifact,
        folder / _HERE,
        plan.engine,
        compiler=host.product,
        compute_capability=host.compute_capability,
        gpu=host.gpu,
        seconds=plan.seconds,
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
    """What a build wrote. Raises RunError if it is not there or not what its manifest says."""
    try:
        values = json.loads((folder / MANIFEST).read_text())
        engine = Engine(**values | {"path": folder / values["path"]})
        if not isinstance(engine.layers, dict):
            raise TypeError("its layers are no table")
        whole = sha256_of(engine.path) == engine.sha256
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{folder} holds no readable engine ({error}): run build again.") from error
    if not whole:
        raise RunError(f"{engine.path} is not the file that its manifest describes: run build again.")
    return engine
