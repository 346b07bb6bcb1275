"""What a runtime must do here: run a model on batches, and say how long that takes."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Dict, Optional, Protocol

from .arrays import Array
from .base import Absent
from .manifest import Bundle, ModelEntry
from .timing import Measured


class ModelSession(Protocol):
    """A model, ready to run."""

    def run(self, images: Array) -> Dict[str, Array]:
        """Outputs by name. images: [N, C, H, W] in the network's type, N at most LARGEST_BATCH."""

    def measured(self, images: Array, runs: int) -> Measured:
        """What one batch takes, without transfers to and from a GPU."""


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
