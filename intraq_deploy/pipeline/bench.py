"""Speed on this machine: float32, ONNX Runtime's own INT8 and a run's files, in turn."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from intraq_deploy.errors import RunError
from intraq_deploy.evaluation.latency import interleaved, medians, speed
from intraq_deploy.pipeline.comparison import FLOAT32
from intraq_deploy.pipeline.finished import finished_run
from intraq_deploy.pipeline.keeping import OpenStage, StageWork, kept_or_made
from intraq_deploy.pipeline.measurement import baselines, timed_here
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.options import BenchOptions
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.run import Run, machine, tensor_sha256
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.pipeline.validation import program_input
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.opening import open_shipped
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.onnxruntime.static import quantize_static

STATIC = "quantize_static"
"""ONNX Runtime's own, calibrated with the run's images."""
_FOLDER, _FILE = "bench", "static.onnx"
_CALIBRATION = 32
"""Images that quantize_static gets."""
_ROUNDS = 1000


class BenchRow(BaseModel):
    """The speed of one model."""

    name: str
    """A target, FLOAT32 or STATIC."""
    bytes: int
    milliseconds: float
    """The median over rounds."""
    speed: tuple[float, float, float]
    """How many times as fast as float32: the median over rounds, and its 95 % interval."""


class BenchReport(BaseModel):
    """The speeds of all models, timed in turn in one process."""

    architecture: str
    bits: str
    batch: int
    threads: int
    rounds: int
    machine: str
    onnxruntime: str
    rows: list[BenchRow]
    elsewhere: list[str]
    """Targets that are timed on the device only."""

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return self.model_dump_json(indent=2)


def bench_run(opening: Opening, targets: tuple[str, ...], options: BenchOptions, progress: Progress) -> BenchReport:
    """Times a finished run's files. targets: empty for all that the run has.

    options: checked. Raises RunError for a target that the run has not.
    """
    finished = finished_run(opening, progress)
    run, report, threads = finished.run, finished.report, options.threads
    artifacts = finished.artifacts(targets)
    here = timed_here(run, artifacts)
    inputs = program_input(finished.program, finished.images.images)
    with run.directory.opened():
        plain = baselines(run, finished.images, report.mixed)[FLOAT32]
        static = _static(run, plain, inputs[:_CALIBRATION])
    sessions = {FLOAT32: open_shipped(plain, threads), STATIC: Session(static, threads=threads)}
    sessions |= {name: open_shipped(artifact, threads) for name, artifact in here.items()}
    sizes = {FLOAT32: plain.bytes, STATIC: static.stat().st_size}
    sizes |= {name: artifact.bytes for name, artifact in here.items()}
    some = inputs[torch.arange(options.batch) % len(inputs)]
    runs: dict[str, Callable[[], object]] = {name: partial(session.run, some) for name, session in sessions.items()}
    progress.say(f"{len(runs)} models are timed in turn, for about {options.seconds:g} s.")
    times = interleaved(runs, _ROUNDS, options.seconds, threads)
    middle = medians(times)
    ratios = {name: speed(values, times[FLOAT32]) for name, values in times.items()}
    return BenchReport(
        architecture=report.model.architecture,
        bits=report.label,
        batch=options.batch,
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
    """Returns the file of ONNX Runtime's own quantizer, kept or made."""

    def load(folder: Path) -> Path:
        if not (folder / _FILE).is_file():
            raise RunError(f"{folder / _FILE} is missing.")
        return folder / _FILE

    def make(stage: OpenStage) -> Path:
        quantize_static(plain.path, stage.folder / _FILE, images)
        return stage.folder / _FILE

    key = key_of(onnx=plain.sha256, images=tensor_sha256(images), runtime=onnxruntime().__version__)
    return kept_or_made(run, StageWork(_FOLDER, key), load, make)
