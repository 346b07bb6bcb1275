"""TensorRT by the runner's trtexec, for where its Python bindings are missing."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor

from intraq_deploy.targets.device.runner.base import Absent
from intraq_deploy.targets.device.runner.trtexec import ONCE, TrtexecProgram
from intraq_deploy.targets.tensorrt.builder import explained
from intraq_deploy.targets.tensorrt.runtime import BatchedSession
from intraq_deploy.targets.tensorrt.versions import switches_of

_VERBOSE = "--profilingVerbosity=detailed"
_RUNS = 10
"""The fewest runs that are timed, as trtexec has it by default."""


def find_trtexec() -> TrtexecProgram | None:
    """trtexec on PATH, or where JetPack has it; None where it is missing.

    Raises TargetError for one that cannot be run, or does not say its version.
    """
    with explained():
        try:
            return TrtexecProgram()
        except Absent:
            return None


@dataclass(frozen=True, slots=True)
class Trtexec:
    """trtexec as a `host.Host`."""

    program: TrtexecProgram
    gpu: str
    compute_capability: str
    workspace: int
    """Bytes of the GPU's memory that kernels may use."""

    @property
    def version(self) -> str:
        return self.program.version

    @property
    def product(self) -> str:
        return self.program.product

    def build(self, model: Path, timing_cache: Path, *, half: bool = False) -> bytes:
        """Builds the engine of an ONNX file, as `Host.build`. Raises TargetError where trtexec fails."""
        image = onnx.load(model, load_external_data=False).graph.input[0]
        shape = [axis.dim_value for axis in image.type.tensor_type.shape.dim[1:]]
        options = (*switches_of(self.version, half=half).trtexec, _VERBOSE)
        with explained():
            engine = self.program.build(model, shape, timing_cache, self.workspace, options)
        if timing_cache.is_file():
            timing_cache.chmod(0o644)  # as the run's other files: somebody else may build on
        return engine

    def layers(self, engine: Path) -> str:
        """TensorRT's own description of the layers, JSON. Raises TargetError where trtexec fails.

        The engine is run once for it: while it builds, trtexec has no shapes, and shows no formats.
        """
        with explained(), tempfile.TemporaryDirectory() as folder:
            layers = Path(folder) / "layers.json"
            # Without --shapes it takes the profile's least, a batch of one.
            self.program.call(f"--loadEngine={engine}", f"--exportLayerInfo={layers}", _VERBOSE, *ONCE)
            return self.program.written(layers).decode()

    def open(self, engine: Path) -> "TrtexecSession":
        """A session, for which nothing is loaded yet."""
        return TrtexecSession(self.program, engine)


class TrtexecSession(BatchedSession):
    """One engine, loaded anew for every batch."""

    def __init__(self, program: TrtexecProgram, engine: Path) -> None:
        self._program, self._engine = program, engine

    def milliseconds(self, images: Tensor) -> float:
        """The median time of a CUDA graph's replays, as trtexec prints it. images: float32 or uint8 [N, C, H, W]."""
        with explained():
            return self._program.times(self._engine, images.numpy(), _RUNS, "--useCudaGraph").median

    def _batch(self, images: Tensor) -> dict[str, Tensor]:
        with explained():
            found = self._program.run(self._engine, images.numpy())
        return {name: torch.from_numpy(array) for name, array in found.items()}
