"""Artifacts of a run: its program, written for a target."""

import json
from collections.abc import Callable
from pathlib import Path

from intraq_deploy.errors import TargetError
from intraq_deploy.files import write_atomically
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline import records
from intraq_deploy.pipeline.finished import opened_run
from intraq_deploy.pipeline.keeping import OpenStage, StageWork, kept_or_prepared
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.report import RunReport
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.program.program import Program
from intraq_deploy.targets.artifact import MANIFEST, Artifact, read_manifest
from intraq_deploy.targets.onnx.export import lowered, write
from intraq_deploy.targets.tensorrt.implicit import add_cache

TARGETS = "targets"


def export_run(opening: Opening, targets: tuple[str, ...], progress: Progress, *, out: Path | None = None) -> RunReport:
    """Writes a finished run's program for `targets`. The opening's own targets are kept by the run.

    out: a folder that gets a copy of each target's files, in a folder of the target's name.

    Raises UsageError for an unknown target, TargetError for one that refuses the program, RunError for what is no run.
    """
    with opened_run(opening, progress) as finished:
        run, report, program = finished.run, finished.report, finished.program
        for target in targets:
            run.profile(target)
        finished.keep_targets()
        artifacts = {target: _of_another(run, target, program, report.label) for target in targets}
        made = {target: records.artifact_record(run, artifact, program) for target, artifact in artifacts.items()}
        if out is not None:
            for target, artifact in artifacts.items():
                _copy(artifact, out / target)
        return finished.keep(report.changed(artifacts={**report.artifacts, **made}))


def _copy(artifact: Artifact, folder: Path) -> None:
    """Copies an artifact's files and its manifest, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (artifact.path.name, *artifact.companions, MANIFEST):
        write_atomically(folder / name, (artifact.path.parent / name).read_bytes())


def _of_another(run: Run, target: str, program: Program, bits: str) -> Artifact:
    """Returns the artifact of a target that the run may not have been quantized for, as `export_artifact`."""
    try:
        return export_artifact(run, target, program, bits)
    except TargetError as error:
        if target in run.options.targets:
            raise
        raise TargetError(
            f"{error} Quantize for this target from the start (--target {target}), or export for another one."
        ) from error


def export_artifact(run: Run, target: str, program: Program, bits: str) -> Artifact:
    """Returns the artifact of one target, kept or made.

    bits: as the file names them, "W4A4". Where the target takes one and nothing was trained, a calibration cache goes
    along: training fits weights to the program's own grids, and implicit quantization chooses its own for them.
    Raises UsageError for an unknown target, TargetError for one that refuses the program.
    """
    profile = run.profile(target)
    metadata = model_metadata(run.model) | {"scheme": run.options.scheme, "bits": bits}
    cached = profile.calibration_cache is not None and run.ranges_only

    def prepare() -> Callable[[OpenStage], Artifact]:
        made = lowered(program, profile, metadata)  # a program that is refused leaves the file that is there

        def make(stage: OpenStage) -> Artifact:
            artifact = write(made, stage.folder)
            return add_cache(artifact, program, profile, metadata) if cached else artifact

        return make

    key = key_of(program=program.sha256, profile=profile.model_dump(), metadata=metadata, cached=cached)
    return kept_or_prepared(run, StageWork(f"{TARGETS}/{target}", key), whole_artifact, prepare)


def whole_artifact(folder: Path) -> Artifact:
    """Returns the artifact in `folder`. Raises RunError if a file is not what its manifest says."""
    artifact = read_manifest(folder)
    artifact.verify()
    return artifact


def model_metadata(model: Model) -> dict[str, str]:
    """Returns the properties of a model file that are enough to feed it and to name its classes."""
    preprocessing = model.preprocessing
    values = {
        "architecture": model.architecture,
        "mean": json.dumps(preprocessing.mean),
        "std": json.dumps(preprocessing.std),
        "resize": json.dumps(preprocessing.resize),
        "interpolation": preprocessing.interpolation,
        "squash": json.dumps(preprocessing.squash),
    }
    return values if model.class_names is None else values | {"classes": json.dumps(model.class_names)}
