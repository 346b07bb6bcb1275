"""The interface of a runtime: it runs a model on batches, and times that. TensorRT's engines are kept."""

import hashlib
import importlib
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Dict, Optional, Protocol, Sequence

from .arrays import Array
from .base import LARGEST_BATCH, Absent, Problem, say, sha256_of, write_whole
from .manifest import Bundle, ModelEntry, onnx_bytes
from .timing import Measured
from .versions import Switches


class ModelSession(Protocol):
    """A model, ready to run."""

    def run(self, images: Array) -> Dict[str, Array]:
        """Outputs by name. images: [N, C, H, W] in the network's type, N at most LARGEST_BATCH."""

    def measured(self, images: Array, runs: int) -> Measured:
        """Times one batch, without transfers to and from a GPU."""


class Backend(Protocol):
    """A runtime of one version on this machine."""

    name: str
    kind: str
    """The manifest's name of the runtime: "tensorrt" or "onnxruntime"."""
    version: str
    gpu: Optional[str]

    def prepare(self, bundle: Bundle, model: ModelEntry, cache: Path, with_codes: bool) -> ModelSession:
        """A session. with_codes: the codes of all quantized tensors are among the outputs."""


def imported(name: str, absent: str, remedy: str) -> ModuleType:
    """A runtime's module. Raises Absent where it is not installed; one that is broken raises what it likes."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # it is here, and something that it imports is not
            raise
        raise Absent(f"{absent} ({error})", remedy) from error


class EngineBackend(Backend, Protocol):
    """A runtime that runs engines."""

    switches: Switches

    def make(self, data: bytes, shape: Sequence[int], timing: Path) -> bytes:
        """The engine of an ONNX file for batches of 1 to LARGEST_BATCH.

        shape: one image's, without the batch. timing: the file of kernels' times, read if it is there, and written.
        Raises Problem where the model is refused.
        """


def engine_path(backend: EngineBackend, bundle: Bundle, model: ModelEntry, cache: Path, with_codes: bool) -> Path:
    """The path of an engine, which is for one ONNX file, version of TensorRT, GPU, and a backend's settings."""
    onnx = hashlib.sha256(onnx_bytes(bundle, model, with_codes)).hexdigest()
    settings = (backend.name, LARGEST_BATCH, *backend.switches)
    key = hashlib.sha256(f"{onnx} {backend.version} {backend.gpu} {settings}".encode()).hexdigest()[:16]
    return cache / f"{'codes' if with_codes else 'model'}-{backend.version}-{key}.plan"


def engine_of(backend: EngineBackend, bundle: Bundle, model: ModelEntry, cache: Path, with_codes: bool) -> Path:
    """The path of an engine: the one in the cache if it is whole, else a new one, which takes minutes on a Jetson."""
    path = engine_path(backend, bundle, model, cache, with_codes)
    about = path.with_suffix(".json")
    try:
        if json.loads(about.read_text())["sha256"] == sha256_of(path):
            return path
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"{cache} cannot be made ({error.strerror}): choose another folder with --cache.") from error
    say(f"TensorRT {backend.version} builds {path.name} for {backend.gpu}: this can take minutes.")
    timing = cache / f"timing-{hashlib.sha256(f'{backend.version} {backend.gpu}'.encode()).hexdigest()[:12]}.cache"
    start = time.perf_counter()
    made = backend.make(onnx_bytes(bundle, model, with_codes), bundle.manifest["input"]["shape"], timing)
    seconds = round(time.perf_counter() - start, 1)
    write_whole(path, made)
    facts = {"sha256": hashlib.sha256(made).hexdigest(), "model": model["file"], "seconds": seconds, "gpu": backend.gpu}
    write_whole(about, json.dumps(facts, indent=1).encode())
    return path
