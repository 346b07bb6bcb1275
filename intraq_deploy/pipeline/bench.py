"""Speed on this machine: float32, ONNX Runtime's own INT8 and ours, in turn."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from intraq_deploy.errors import UsageError
from intraq_deploy.evaluation.latency import interleaved, medians, speed
from intraq_deploy.pipeline.measurement import FLOAT32, baselines
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.quantize import finished_run, kept_artifacts, kept_images
from intraq_deploy.pipeline.run import Run, machine
from intraq_deploy.pipeline.rundir import key_of, tensor_sha256
from intraq_deploy.pipeline.stages import FREEZING, kept, running
from intraq_deploy.pipeline.validation import program_input
from intraq_deploy.program import load_program
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.opening import is_rehearsed, open_shipped
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.onnxruntime.static import quantize_static

STATIC = "quantize_static"
"""ONNX Runtime's own, calibrated with the run's images."""
_FOLDER, _FILE = "bench", "static.onnx"
_CALIBRATION = 32
"""Images that quantize_static gets."""
_ROUNDS = 1000
_MOST = 1024


class BenchRow(BaseModel):
    """One model."""

    name: str
    """A target, FLOAT32 or STATIC."""
    bytes: int
    milliseconds: float
    """Median over rounds."""
    speed: tuple[float, float, float]
    """How many times as fast as float32: the median over rounds, and its 95 % interval."""


class BenchReport(BaseModel):
    """All models, timed in turn in one process."""

    architecture: str
    bits: str
    batch: int
    threads: int
    rounds: int
    machine: str
    onnxruntime: str
    rows: list[BenchRow]
    elsewhere: list[str]
    """Targets whose runtime is on the device only."""

    def to_json(self) -> str:
        return self.model_dump_json(indent=2)


def bench_run(
    path: Path,
    targets: tuple[str, ...],
    batch: int,
    threads: int,
    seconds: float,
    trust_pickle: bool,
    progress: Progress,
) -> BenchReport:
    """Times a finished run's files. targets: empty for all that the run has. seconds: in all.

    Raises UsageError for numbers that are none, RunError for a target that the run has not.
    """
    for name, value in (("--batch", batch), ("--threads", threads)):
        if not 1 <= value <= _MOST:
            raise UsageError(f"{name} is {value}: give a number from 1 to {_MOST}.")
    if not 0 < seconds <= 3600:
        raise UsageError(f"--seconds is {seconds:g}: give a number above 0, up to 3600.")
    run, report = finished_run(path, trust_pickle, progress)
    artifacts = kept_artifacts(path, report, targets)
    here = {name: artifact for name, artifact in artifacts.items() if not is_rehearsed(artifact)}
    images = kept_images(run)
    inputs = program_input(load_program(path / FREEZING), images.images)
    with run.directory.opened():
        plain = baselines(run, images)[FLOAT32]
        static = _static(run, plain, inputs[:_CALIBRATION])
    sessions = {FLOAT32: open_shipped(plain, threads), STATIC: Session(static, threads=threads)}
    sessions |= {name: open_shipped(artifact, threads) for name, artifact in here.items()}
    sizes = {FLOAT32: plain.bytes, STATIC: static.stat().st_size}
    sizes |= {name: artifact.bytes for name, artifact in here.items()}
    some = inputs[torch.arange(batch) % len(inputs)]
    runs: dict[str, Callable[[], object]] = {name: partial(session.run, some) for name, session in sessions.items()}
    progress.say(f"{len(runs)} models are timed in turn, for about {seconds:g} s.")
    times = interleaved(runs, _ROUNDS, seconds, threads)
    middle = medians(times)
    ratios = {name: speed(values, times[FLOAT32]) for name, values in times.items()}
    return BenchReport(
        architecture=report.model.architecture,
        bits=report.label,
        batch=batch,
        threads=threads,
        rounds=len(times[FLOAT32]),
        machine=machine(),
        onnxruntime=onnxruntime().__version__,
        rows=[
            BenchRow(
                name=name,
                bytes=sizes[name],
                milliseconds=round(middle[name], 4),
                speed=(round(ratio.value, 3), round(ratio.low, 3), round(ratio.high, 3)),
            )
            for name, ratio in ratios.items()
        ],
        elsewhere=[name for name in artifacts if name not in here],
    )


def _static(run: Run, plain: Artifact, images: Tensor) -> Path:
    """The file of ONNX Runtime's own quantizer, made once."""
    key = key_of(onnx=plain.sha256, images=tensor_sha256(images), runtime=onnxruntime().__version__)
    before = kept(run, _FOLDER, key, lambda folder: folder / _FILE)
    if before is not None and before.is_file():
        return before
    with running(run, _FOLDER, key, 1, "") as (stage, _):
        quantize_static(plain.path, stage.folder / _FILE, images)
        return stage.folder / _FILE
