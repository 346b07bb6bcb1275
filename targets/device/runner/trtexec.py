"""trtexec, TensorRT's own command, for where its Python bindings are missing: Debian packages and JetPack have it.

build   trtexec --onnx=M --saveEngine=E FLAGS                          writes the engine and a cache of kernels' times
run     trtexec --loadEngine=E --loadInputs=image:F --exportOutput=J   one batch, its outputs as JSON
time    trtexec --loadEngine=E --noDataTransfers                       "GPU Compute Time: ... median = 0.5 ms"
"""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from .arrays import Array, np
from .backends import engine_of
from .base import INPUT, LARGEST_BATCH, Absent, Problem, write_whole
from .machine import ROOT, free_memory, gpu_name
from .manifest import Bundle, ModelEntry
from .tensorrt import Refused
from .timing import Measured
from .versions import switches_of, workspace_of

ONCE = ("--iterations=1", "--warmUp=0", "--duration=0")
"""Options for one run that is not timed."""


def find_trtexec() -> Optional[str]:
    """The path of trtexec: on PATH, or where JetPack has it; None where it is missing."""
    jetpack = ROOT / "usr/src/tensorrt/bin/trtexec"
    return shutil.which("trtexec") or (str(jetpack) if jetpack.is_file() else None)


class TrtexecProgram:
    """trtexec of one version."""

    def __init__(self) -> None:
        """Finds trtexec. Raises Absent where it is missing, Problem for one that cannot be run or says no version."""
        path = find_trtexec()
        if path is None:
            remedy = "on a Jetson: sudo apt install libnvinfer-bin (JetPack brings it)"
            raise Absent("trtexec is neither on PATH nor in /usr/src/tensorrt/bin", remedy)
        self.path = path
        digits = re.search(r"\[TensorRT v(\d+)\]", self._said("--help")[1])
        # 8602 is 8.6.2, 100300 is 10.3.0.
        parts = digits and re.fullmatch(r"(\d)(\d)(\d\d)|(\d\d)(\d\d)(\d\d)", digits.group(1))
        if not parts:
            raise Problem(f"{path} does not say which TensorRT it is of", "install TensorRT again")
        self.version = ".".join(str(int(part)) for part in parts.groups() if part is not None)
        self.product = f"TensorRT {self.version} (trtexec)"

    def build(
        self, model: Path, shape: Sequence[int], timing: Path, workspace: Optional[int], options: Sequence[str]
    ) -> bytes:
        """The engine of an ONNX file for batches of 1 to LARGEST_BATCH.

        shape: one image's, without the batch. timing: read if it is there, and written. workspace: bytes that kernels
        may use. Raises Refused where trtexec fails, Problem where it writes no engine.
        """
        sizes = "x".join(map(str, shape))
        batches = {"min": 1, "opt": 1, "max": LARGEST_BATCH}
        with tempfile.TemporaryDirectory() as name:
            engine, kernels = Path(name) / "engine.plan", Path(name) / "timing.cache"
            if timing.is_file():  # a copy: it is written in place, and trtexec may be ended in the middle
                shutil.copy(str(timing), str(kernels))
            self.call(
                f"--onnx={model}",
                f"--saveEngine={engine}",
                f"--timingCacheFile={kernels}",
                *(f"--{which}Shapes={INPUT}:{batch}x{sizes}" for which, batch in batches.items()),
                *([] if workspace is None else [f"--memPoolSize=workspace:{max(1, workspace >> 20)}"]),
                "--noTF32",
                *options,
            )
            if kernels.is_file():
                write_whole(timing, kernels.read_bytes())
            return self.written(engine)

    def run(self, engine: Path, images: Array) -> Dict[str, Array]:
        """Outputs by name, float32, of one batch: images [N, C, H, W] in the engine's type.

        Raises Refused where trtexec fails, Problem where it writes no outputs.
        """
        with tempfile.TemporaryDirectory() as name:
            given, found = Path(name) / "images", Path(name) / "outputs.json"
            given.write_bytes(np.ascontiguousarray(images).tobytes())
            self.call(
                f"--loadEngine={engine}",
                _shapes(images),
                f"--loadInputs={INPUT}:{given}",
                f"--exportOutput={found}",
                *ONCE,
            )
            text = self.written(found).decode()
        # JSON has no words for what C++ writes of a number that is none, or without end.
        outputs = json.loads(re.sub(r"(?<=[\[,\s])-?(?:nan|inf)(?=[],\s])", "NaN", text))
        return {
            output["name"]: np.array(output["values"], dtype=np.float32).reshape(_sizes(output["dimensions"]))
            for output in outputs
            if output["name"] != INPUT
        }

    def times(self, engine: Path, images: Array, runs: int, *options: str) -> Measured:
        """Times one batch as trtexec does: as often as it wants, at least `runs` times.

        Some versions give no percentiles. There are no watts: it starts and loads the engine in the same time, and what
        that takes is not what the engine takes.
        Raises Problem where it prints no time, Refused where it fails.
        """
        given = ("--noDataTransfers", f"--iterations={runs}", *options, _shapes(images))
        said = self.call(f"--loadEngine={engine}", *given)
        line = re.search(r"GPU Compute Time:(.*)", said)
        found = dict(re.findall(r"(median|percentile\(\d+%\)) = ([\d.]+) ms", line.group(1) if line else ""))
        if "median" not in found:
            raise Problem("trtexec does not say how long the engine took: run it by hand.")
        p90, p99 = (float(found[its]) if its in found else None for its in ("percentile(90%)", "percentile(99%)"))
        queries = re.search(r"Timing trace has (\d+) queries", said)
        return Measured(int(queries.group(1)) if queries else runs, float(found["median"]), p90, p99, {}, 0)

    def call(self, *arguments: str) -> str:
        """Runs trtexec, and gives what it prints. Raises Refused, with its errors, where it fails."""
        code, said = self._said(*arguments)
        if code:
            raise Refused(self.product, re.findall(r"\[E\] (.*)", said))
        return said

    def written(self, file: Path) -> bytes:
        """The bytes of a file that trtexec was told to write. Raises Problem where it did not."""
        try:
            return file.read_bytes()
        except OSError as error:
            raise Problem(f"{self.product} ended well and wrote no {file.name}", "run it by hand") from error

    def _said(self, *arguments: str) -> Tuple[int, str]:
        """Runs trtexec, and gives its exit code and what it prints."""
        try:
            done = subprocess.run(
                [self.path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )
        except OSError as error:  # of another architecture, say
            raise Problem(f"{self.path} cannot be run ({error.strerror})", "install TensorRT again") from error
        return done.returncode, done.stdout.decode(errors="replace")


def _shapes(images: Array) -> str:
    return f"--shapes={INPUT}:{'x'.join(map(str, images.shape))}"


def _sizes(dimensions: str) -> List[int]:
    """A shape from how trtexec writes it: "8x10"."""
    return [int(size) for size in dimensions.split("x")]


class Trtexec(TrtexecProgram):
    """trtexec as an EngineBackend."""

    name, kind = "trtexec", "tensorrt"

    def __init__(self) -> None:
        super().__init__()
        self.switches = switches_of(self.version)
        self.gpu: Optional[str] = gpu_name()

    def prepare(self, bundle: Bundle, model: ModelEntry, cache: Path, with_codes: bool) -> "TrtexecSession":
        engine = engine_of(self, bundle, model, cache, with_codes)
        return TrtexecSession(self, engine, bundle.manifest["input"]["type"])

    def make(self, data: bytes, shape: Sequence[int], timing: Path) -> bytes:
        free = free_memory()
        with tempfile.TemporaryDirectory() as name:
            model = Path(name) / "model.onnx"
            model.write_bytes(data)
            workspace = None if free is None else workspace_of(free)
            return self.build(model, shape, timing, workspace, self.switches.trtexec)


class TrtexecSession:
    """An engine, loaded anew for every batch."""

    def __init__(self, program: TrtexecProgram, engine: Path, kind: str) -> None:
        self._program, self._engine, self._kind = program, engine, kind

    def run(self, images: Array) -> Dict[str, Array]:
        return self._program.run(self._engine, images.astype(self._kind, copy=False))

    def measured(self, images: Array, runs: int) -> Measured:
        return self._program.times(self._engine, images, runs)
