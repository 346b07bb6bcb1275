"""An engine: what a compiler makes of an artifact for one GPU, and a manifest beside it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx_ir as ir
from intraq_deploy.targets.artifact import MANIFEST, Artifact, sha256_of
from intraq_deploy.targets.profile import TargetProfile
from intraq_deploy.targets.tensorrt.layers import computed_in
from intraq_deploy.targets.tensorrt.rtx import compile_model

from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically

ENGINE = "engine.rtx"


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
    seconds: float
    layers: dict[str, str]
    """In which type each convolution and linear layer multiplies (`layers.computed_in`)."""


def build(artifact: Artifact, profile: TargetProfile, folder: Path) -> Engine:
    """Compiles `artifact` into `folder`, which exists. Raises TargetError where the compiler refuses it."""
    artifact.verify()
    assert profile.compute_capability is not None
    compiled = compile_model(artifact.path.read_bytes(), profile.compute_capability)
    path = folder / ENGINE
    write_atomically(path, compiled.engine)
    engine = Engine(
        target=profile.name,
        path=path,
        bytes=len(compiled.engine),
        sha256=sha256_of(path),
        onnx_sha256=artifact.sha256,
        compiler=f"TensorRT for RTX {compiled.version}",
        compute_capability=compiled.capability,
        seconds=compiled.seconds,
        layers=computed_in(ir.load(artifact.path), compiled.layers),
    )
    write_atomically(folder / MANIFEST, json.dumps(asdict(engine) | {"path": path.name}, indent=1))
    return engine


def read_engine(folder: Path) -> Engine:
    """What `build` wrote. Raises RunError if it is not there or not what its manifest says."""
    try:
        values = json.loads((folder / MANIFEST).read_text())
        engine = Engine(**values | {"path": folder / values["path"]})
        whole = sha256_of(engine.path) == engine.sha256
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{folder} holds no readable engine ({error}): run build again.") from error
    if not whole:
        raise RunError(f"{engine.path} is not the file that its manifest describes: run build again.")
    return engine
