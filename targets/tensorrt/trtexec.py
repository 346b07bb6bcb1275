"""trtexec, TensorRT's own command, for where its Python bindings are missing: Debian packages and JetPack have it.

build   trtexec --onnx=M --saveEngine=E FLAGS          writes the engine, a timing cache and a table of layers
run     trtexec --loadEngine=E --loadInputs=image:F --exportOutput=J   one batch, its outputs as JSON
time    trtexec --loadEngine=E --useCudaGraph --noDataTransfers        "GPU Compute Time: ... median = 0.5 ms"
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor

from intraq_deploy.errors import TargetError
from intraq_deploy.files import write_atomically
from intraq_deploy.targets.onnx.canonical import INPUT, OUTPUT, codes_name
from intraq_deploy.targets.tensorrt.builder import LARGEST_BATCH, refusal
from intraq_deploy.targets.tensorrt.versions import Version, parsed

_JETPACK = Path("/usr/src/tensorrt/bin/trtexec")
_BANNER = re.compile(r"\[TensorRT v(\d+)\]")
_MEDIAN = re.compile(r"GPU Compute Time:.*?median = ([\d.]+) ms")
_ERROR = re.compile(r"\[E\] (.*)")
_TYPED: Version = (10, 12)
_ALWAYS_TYPED: Version = (11, 0)
_SKIPS_INFERENCE: Version = (8, 6)
_VERBOSE = ("--profilingVerbosity=detailed",)
_ONCE = ("--iterations=1", "--warmUp=0", "--duration=0")


@dataclass(frozen=True, slots=True)
class Found:
    """Where it is, and which TensorRT it is of."""

    path: Path
    version: str


def find_trtexec() -> Found | None:
    """On PATH, or where JetPack has it. Raises TargetError for one that does not say its version."""
    where = shutil.which("trtexec") or (str(_JETPACK) if _JETPACK.is_file() else None)
    if where is None:
        return None
    said = _run(where, "--help").stdout
    banner = _BANNER.search(said)
    if banner is None:
        raise TargetError(f"{where} does not say which TensorRT it is of: install TensorRT 8.5 to 11 again.")
    return Found(Path(where), _version(banner[1]))


def _version(digits: str) -> str:
    """8602 is 8.6.2, 100300 is 10.3.0."""
    parts = re.fullmatch(r"(\d)(\d)(\d\d)|(\d\d)(\d\d)(\d\d)", digits)
    if parts is None:
        raise TargetError(f"trtexec calls its version {digits}, which is none: install TensorRT 8.5 to 11.")
    return ".".join(str(int(part)) for part in parts.groups() if part is not None)


@dataclass(frozen=True, slots=True)
class Trtexec:
    """A host (`host.Host`)."""

    path: Path
    version: str
    gpu: str
    compute_capability: str
    workspace: int
    """Bytes of the GPU's memory that kernels may use."""

    @property
    def product(self) -> str:
        return f"TensorRT {self.version} (trtexec)"

    def build(self, model: Path, timing_cache: Path, *, half: bool = False) -> bytes:
        """As the other host's."""
        with tempfile.TemporaryDirectory() as folder:
            engine, cache = Path(folder) / "engine", Path(folder) / "timing"
            if timing_cache.is_file():
                shutil.copy(timing_cache, cache)
            self.call(
                f"--onnx={model}",
                f"--saveEngine={engine}",
                f"--timingCacheFile={cache}",
                f"--memPoolSize=workspace:{max(1, self.workspace >> 20)}",
                *_shapes(model),
                *_typing(parsed(self.version), half),
                "--noTF32",
                *_VERBOSE,
                "--skipInference" if parsed(self.version) >= _SKIPS_INFERENCE else "--buildOnly",
            )
            if cache.is_file():
                write_atomically(timing_cache, cache.read_bytes())
            return self.written(engine)

    def layers(self, engine: Path) -> str:
        """In a call of its own, that runs it: while it builds, trtexec has no shapes, and shows no formats."""
        with tempfile.TemporaryDirectory() as folder:
            layers = Path(folder) / "layers.json"
            # Without --shapes it takes the profile's least, a batch of one.
            self.call(f"--loadEngine={engine}", f"--exportLayerInfo={layers}", *_VERBOSE, *_ONCE)
            return self.written(layers).decode()

    def open(self, engine: Path) -> "TrtexecSession":
        """Nothing is loaded yet."""
        return TrtexecSession(self, engine)

    def call(self, *arguments: str) -> str:
        """What it says. Raises TargetError, with its errors, where it fails."""
        done = _run(self.path, *arguments)
        if done.returncode:
            raise refusal(self.product, _ERROR.findall(done.stdout + done.stderr))
        return done.stdout

    def written(self, file: Path) -> bytes:
        """What it was told to write. Raises TargetError where it did not."""
        try:
            return file.read_bytes()
        except OSError as error:
            raise TargetError(f"{self.product} ended well and wrote no {file.name}: run it by hand.") from error


def _run(path: Path | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise TargetError(f"{path} cannot be run ({error.strerror}): install TensorRT again.") from error


def _shapes(model: Path) -> list[str]:
    image = onnx.load(model, load_external_data=False).graph.input[0]
    sizes = "x".join(str(axis.dim_value) for axis in image.type.tensor_type.shape.dim[1:])
    batches = {"min": 1, "opt": 1, "max": LARGEST_BATCH}
    return [f"--{which}Shapes={image.name}:{batch}x{sizes}" for which, batch in batches.items()]


def _typing(version: Version, half: bool) -> list[str]:
    if version >= _ALWAYS_TYPED:
        return []
    if version >= _TYPED:
        return ["--stronglyTyped"]
    return ["--fp16" if half else "--int8"]


class TrtexecSession:
    """One engine, loaded anew for every batch."""

    def __init__(self, host: Trtexec, engine: Path) -> None:
        self._host, self._engine = host, engine

    def run(self, images: Tensor) -> Tensor:
        """images: [N, C, H, W], any N -> logits, float32 [N, classes]."""
        return self._run(images)[OUTPUT]

    def run_instrumented(self, images: Tensor, zero_points: Mapping[str, int]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the codes of every tensor (int16 [N, ...]), on an instrumented model."""
        found = self._run(images)
        codes = {name: found[codes_name(name)].to(torch.int16) - zero for name, zero in zero_points.items()}
        return found[OUTPUT], codes

    def milliseconds(self, images: Tensor) -> float:
        """The median of a CUDA graph's replays, as trtexec says it. Raises TargetError where it does not."""
        said = self._host.call(f"--loadEngine={self._engine}", _shape(images), "--useCudaGraph", "--noDataTransfers")
        median = _MEDIAN.search(said)
        if median is None:
            raise TargetError(f"{self._host.product} does not say how long the engine took: run it by hand.")
        return float(median[1])

    def _run(self, images: Tensor) -> dict[str, Tensor]:
        """All outputs, by name."""
        parts = [self._batch(part) for part in images.split(LARGEST_BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _batch(self, images: Tensor) -> dict[str, Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            given, found = Path(folder) / "images", Path(folder) / "outputs.json"
            given.write_bytes(images.contiguous().numpy().tobytes())
            self._host.call(
                f"--loadEngine={self._engine}",
                _shape(images),
                f"--loadInputs={INPUT}:{given}",
                f"--exportOutput={found}",
                *_ONCE,
            )
            text = self._host.written(found).decode()
        # C++ writes what JSON has no words for.
        outputs = json.loads(re.sub(r"-?\b(nan|inf)\b", "NaN", text))
        return {output["name"]: _tensor(output) for output in outputs if output["name"] != INPUT}


def _shape(images: Tensor) -> str:
    return f"--shapes={INPUT}:{'x'.join(map(str, images.shape))}"


def _tensor(output: dict[str, object]) -> Tensor:
    """From trtexec's JSON: dimensions as "8x10", values in a row."""
    shape = [int(size) for size in str(output["dimensions"]).split("x")]
    return torch.tensor(output["values"], dtype=torch.float32).reshape(shape)
