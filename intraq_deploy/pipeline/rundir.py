"""The run directory: stages are folders, each with the key of what made it.

A stage's key hashes its inputs, its configuration and the versions that compute it. A folder whose `stage.json` holds
the key is finished and is not made again; one without is unfinished and may hold parts to continue from, under the
same key; one with another key is cleared. Files are written beside and renamed, `stage.json` last.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.version import __version__

CONFIG, REPORT = "config.json", "run.json"
_STAGE, _PARTIAL = "stage.json", "unfinished.json"


def key_of(**inputs: Any) -> str:
    """The hash of named values (plain, or records that print all they hold) and of this package's and torch's
    versions."""
    text = json.dumps({**inputs, "versions": [__version__, torch.__version__]}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_sha256(tensor: Tensor) -> str:
    """Returns the hash of a tensor's values: any shape and dtype, on the CPU."""
    return hashlib.sha256(np.ascontiguousarray(tensor.numpy()).data).hexdigest()


@dataclass(slots=True)
class Stage:
    """The folder of one stage, open to be made."""

    folder: Path
    key: str
    seconds: float
    """Spent on it so far, earlier sessions included."""

    def clear(self) -> None:
        """Forgets what was made."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.seconds = 0.0


class RunDirectory:
    """The directory of one run; nothing is made before `opened`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        """Seconds of the stages that were kept or made in this session, by name, over all sessions that made them."""

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Makes it if needed, and keeps others out of it.

        Raises RunError where it cannot be written, holds something that is not a run, or is in use.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Hidden files are not ours to judge; a killed process may have left a temporary one.
            entries = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
            with tempfile.TemporaryFile(dir=self.path):
                pass
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise RunError(
                f"The run directory {self.path} cannot be written ({error.strerror}): choose another with --out."
            ) from error
        try:
            if entries and CONFIG not in entries:
                raise RunError(f"{self.path} holds other files ({entries[0]}): choose an empty directory with --out.")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(
                    f"Another intraq-deploy works in {self.path}: wait for it, or choose another directory with --out."
                ) from error
            yield
        finally:
            os.close(handle)

    def finished(self, name: str, key: str) -> bool:
        """Whether stage `name` is finished under `key`. Nothing is changed, another key's folder included."""
        return _read(self.path / name / _STAGE).get("key") == key

    def stage(self, name: str, key: str) -> Stage:
        """The folder of stage `name`, emptied unless it belongs to `key`."""
        folder = self.path / name
        kept = _read(folder / _STAGE) or _read(folder / _PARTIAL)
        if folder.exists() and kept.get("key") != key:
            shutil.rmtree(folder)
            kept = {}
        folder.mkdir(parents=True, exist_ok=True)
        return Stage(folder, key, float(kept.get("seconds") or 0.0))

    @contextmanager
    def running(self, stage: Stage) -> Iterator[Callable[[], None]]:
        """Marks a stage unfinished, times the block, and marks it finished if the block ends well.

        Yields what to call whenever a part has been saved, so that the time spent so far is kept with it.
        """
        before, start = stage.seconds, time.perf_counter()

        def note(name: str = _PARTIAL) -> None:
            stage.seconds = round(before + time.perf_counter() - start, 3)
            values = {"key": stage.key, "seconds": stage.seconds}
            write_atomically(stage.folder / name, json.dumps(values))

        note()
        yield note
        note(_STAGE)
        (stage.folder / _PARTIAL).unlink()

    def write(self, name: str, text: str) -> None:
        """A file at the top of the run directory."""
        write_atomically(self.path / name, text)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def default_directory(source: str, bits: tuple[int | str, int], scheme: str, seed: int) -> Path:
    """`runs/NAME-wXaY` in the current folder, with the scheme and the seed where they are not the usual ones.

    bits: of weights and activations; for weights of mixed precision the budget, as in "average-bits5".
    """
    name = Path(source.partition(":")[2] or source).name
    stem = name.rsplit(".", 1)[0] if name.endswith((".pth", ".pt", ".pt2", ".safetensors")) else name
    unusual = f"-{scheme}" * (scheme != "integer") + f"-seed{seed}" * (seed != 0)
    weights = f"w{bits[0]}" if isinstance(bits[0], int) else bits[0]
    return Path("runs") / f"{stem}-{weights}a{bits[1]}{unusual}"
