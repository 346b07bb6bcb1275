"""TensorRT on this machine, which builds for its own version and for the GPU that is here, and for nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from intraq_deploy.errors import TargetError
from intraq_deploy.files import write_atomically
from intraq_deploy.targets.device.runner.versions import workspace_of
from intraq_deploy.targets.profile import TargetProfile
from intraq_deploy.targets.tensorrt.builder import NetworkBuild, explained
from intraq_deploy.targets.tensorrt.imports import tensorrt
from intraq_deploy.targets.tensorrt.runtime import BatchedSession, EngineSession
from intraq_deploy.targets.tensorrt.trtexec import Trtexec, find_trtexec
from intraq_deploy.targets.tensorrt.versions import parsed, switches_of

DEVICE = "cuda"
"""The device on which inputs and outputs of engines lie, as torch calls it."""


class Runs(Protocol):
    """A model or engine that can be run: images [N, C, H, W] on the CPU, any N."""

    def run(self, images: Tensor) -> Tensor:
        """Logits, float32 [N, classes]."""

    def run_instrumented(self, images: Tensor, zero_points: Mapping[str, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the codes of every tensor, int16 [N, ...]."""


class Host(Protocol):
    """Builds engines for the GPU that is here, and runs them."""

    @property
    def product(self) -> str:
        """Name and version, for messages."""

    @property
    def version(self) -> str: ...
    @property
    def gpu(self) -> str: ...
    @property
    def compute_capability(self) -> str: ...

    def build(self, model: Path, timing_cache: Path, *, half: bool = False) -> bytes:
        """The engine of an ONNX file. timing_cache: read if it is there, and written; one of another GPU or version is
        refused by TensorRT itself, and then made anew. half: the model computes in float16.

        Raises TargetError where the model is refused or memory does not suffice.
        """

    def layers(self, engine: Path) -> str:
        """TensorRT's own description of an engine's layers, JSON. Raises TargetError as `open` does."""

    def open(self, engine: Path) -> BatchedSession:
        """Loads an engine. Raises TargetError for one of another version or GPU."""


@dataclass(frozen=True, slots=True)
class PythonHost:
    """TensorRT's Python bindings, and memory and streams of torch."""

    runtime: ModuleType
    version: str
    gpu: str
    compute_capability: str
    workspace: int
    """Bytes of the GPU's memory that kernels may use."""

    @property
    def product(self) -> str:
        return f"TensorRT {self.version}"

    def build(self, model: Path, timing_cache: Path, *, half: bool = False) -> bytes:
        before = timing_cache.read_bytes() if timing_cache.is_file() else b""
        with explained():
            build = NetworkBuild(self.runtime, self.product, switches_of(self.version, half=half), model.read_bytes())
            build.limit(self.workspace)
            build.use_timing(before)
            engine = build.engine()
        write_atomically(timing_cache, build.timing())
        return engine

    def layers(self, engine: Path) -> str:
        return self.open(engine).layers()

    def open(self, engine: Path) -> EngineSession:
        return EngineSession(self.runtime, self.product, engine.read_bytes(), DEVICE)


def find_host(profile: TargetProfile) -> Host:
    """TensorRT's Python bindings, or trtexec where those are missing.

    Raises TargetError where TensorRT or a GPU is missing, or the version is not the profile's.
    """
    program = None
    try:
        runtime = tensorrt()
        version = str(runtime.__version__)
    except TargetError:
        program = find_trtexec()
        if program is None:
            raise
        version = program.version
    switches_of(version)
    if profile.versions is not None:
        since, before = profile.versions
        if not parsed(since) <= parsed(version) < parsed(before):
            raise TargetError(
                f"TensorRT {version} is installed, and {profile.name} is for {since} to before {before}: choose "
                "another target (docs/tensorrt.md lists them)."
            )
    if not torch.cuda.is_available():
        raise TargetError(
            f"TensorRT {version} is installed, but torch sees no GPU to build for: build on the device, or for "
            "tensorrt-rtx, which needs none."
        )
    major, minor = torch.cuda.get_device_capability()
    gpu, capability = torch.cuda.get_device_name(), f"{major}.{minor}"
    workspace = workspace_of(torch.cuda.mem_get_info()[0])
    if program is not None:
        return Trtexec(program, gpu, capability, workspace)
    return PythonHost(runtime, version, gpu, capability, workspace)
