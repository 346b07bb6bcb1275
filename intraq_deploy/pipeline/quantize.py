"""The main job, in order: the only place that knows it."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from intraq_deploy.data import LabelledImages, load_labelled
from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline import gate, records, stages
from intraq_deploy.pipeline.candidate import GateCandidate
from intraq_deploy.pipeline.dry_run import dry_run
from intraq_deploy.pipeline.estimate import estimate, faster
from intraq_deploy.pipeline.export import export_artifact, remove_others
from intraq_deploy.pipeline.keeping import OpenStage, StageWork, kept_or_made
from intraq_deploy.pipeline.measurement import baselines
from intraq_deploy.pipeline.mixed import check_budget, choose_bits
from intraq_deploy.pipeline.options import QuantizeOptions, RunConfig, read_config
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.report import CalibrationRecord, ImagesRecord, RunReport, read_report
from intraq_deploy.pipeline.run import Run, prepared
from intraq_deploy.pipeline.rundir import CONFIG, REPORT, RunDirectory, key_of
from intraq_deploy.pipeline.schemes import check_depthwise
from intraq_deploy.program import Program
from intraq_deploy.quantization.layers_report import layer_rows
from intraq_deploy.quantization.placement import place
from intraq_deploy.recipes.overrides import too_few_images
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.providers import CUDA, TENSORRT, why_absent
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.training.reconstruction import check_ranges

VALIDATION = "validation"
PLACEMENT = "placement.json"


def synthesize_run(options: QuantizeOptions, out: Path, progress: Progress) -> RunReport:
    """Makes only the images. Leaves a run directory that `quantize_run` continues.

    Raises the package's errors for what cannot be read, traced or synthesized from.
    """
    run = prepared(options, RunDirectory(out), progress)
    with run.directory.opened():
        _begin(run, images_only=True)
        _, record = _synthesized(run)
        return _keep(run, records.run_report(run, record))


def quantize_run(options: QuantizeOptions, out: Path, progress: Progress) -> RunReport:
    """Takes every stage; the report's status is "failed" if the gate is not passed.

    What can be wrong with the input is found before the directory is made. Raises the package's errors.
    """
    for target in options.targets:
        load_profile(target, options.own_targets)
    onnxruntime()
    run = prepared(options, RunDirectory(out), progress)
    _ = run.calibration
    labelled = None if options.eval is None else load_labelled(options.eval, run.model)
    scheme = run.scheme(None)
    place(run.graph, scheme)
    check_depthwise(run.graph, options.depthwise_bits, options.weight_bits)
    if run.recipe.reconstruction.enabled:
        check_ranges(scheme.ranges)
    if options.mixed is not None:
        check_budget(run, options.mixed)
    dry_run(run, scheme)
    with run.directory.opened():
        _begin(run)
        return _keep(run, _stages(run, labelled))


def _stages(run: Run, labelled: LabelledImages | None) -> RunReport:
    """Goes from the images to the gate."""
    made, record = _synthesized(run) if run.calibration is None else _calibrated(run)
    images = stages.RunImages(made, stages.images_key(run))
    mixed = None if run.options.mixed is None else choose_bits(run, images)
    scheme = run.scheme(mixed)
    rows = layer_rows(run.graph, place(run.graph, scheme))
    run.directory.write(PLACEMENT, json.dumps([asdict(row) for row in rows], indent=1))
    student, settled = stages.fine_tune(run, images, scheme)
    program = stages.freeze_student(run, student, stages.student_key(run, scheme, images.key))
    bits = run.bits.label(mixed)
    artifacts = {target: export_artifact(run, target, program, bits) for target in run.options.targets}
    remove_others(run, program, bits)
    compared = {} if labelled is None else baselines(run, made, mixed)
    report = records.run_report(
        run,
        record,
        status="quantized",
        mixed=mixed,
        settled=settled,
        accumulator=records.accumulator_record(program),
        artifacts={name: records.artifact_record(run, artifact, program) for name, artifact in artifacts.items()},
    )

    def check(stage: OpenStage) -> RunReport:
        candidate = GateCandidate(student, program, artifacts, made, mixed=mixed)
        checked = gate.with_gate(report, candidate, gate.run_gate(run, candidate, labelled, compared))
        write_atomically(stage.folder / REPORT, checked.to_json())
        return checked

    key = _validation_key(report, program, labelled)
    return kept_or_made(run, StageWork(VALIDATION, key), lambda folder: read_report(folder / REPORT), check)


def _synthesized(run: Run) -> tuple[SyntheticSet, ImagesRecord]:
    images, quality = stages.synthesize(run)
    return images, records.images_record(run, quality)


def _calibrated(run: Run) -> tuple[SyntheticSet, CalibrationRecord]:
    own, wanted = run.calibration, run.options.images
    assert own is not None
    if wanted is not None and wanted > own.found:
        run.progress.warn(f"--images is {wanted}, and {own.name} has {own.found}: all of them are taken.")
    images = stages.calibrate(run, own)
    return images, records.calibration_record(images, own)


def _begin(run: Run, *, images_only: bool = False) -> None:
    """Keeps what was asked for, and says how long it will take. The directory is open. images_only: nothing but images
    is asked for.

    Raises RunError for a directory that holds another network's run.
    """
    path = run.directory.path / CONFIG
    if path.exists() and read_config(path).weights_sha256 != run.weights_sha256:
        raise RunError(
            f"{run.directory.path} holds the run of another network ({read_config(path).options.model.source}): choose "
            "another directory with --out, or remove it."
        )
    # A report vouches for the files beside it, which may change from here on.
    (run.directory.path / REPORT).unlink(missing_ok=True)
    config = RunConfig(weights_sha256=run.weights_sha256, folder=str(Path.cwd()), options=run.options)
    run.directory.write(CONFIG, config.to_json())
    few = too_few_images(run.recipe.synthesis, run.model.classes)
    # Rounding in closed form reads no label, and misses no class.
    if few is not None and run.calibration is None and (images_only or run.recipe.student.images):
        run.progress.warn(few)
    seconds = estimate(run, images_only=images_only)
    if seconds:
        parts = [f"{stage} {_duration(value)}" for stage, value in seconds.items()]
        run.progress.say(f"Estimated on this machine: {', '.join(parts)}.")
    hint = faster(run, seconds)
    if hint is not None:
        run.progress.warn(hint)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _keep(run: Run, report: RunReport) -> RunReport:
    """Writes the report with the time of its stages into the run directory, and returns it."""
    whole = report.changed(seconds=run.directory.seconds)
    run.directory.write(REPORT, whole.to_json())
    return whole


def _validation_key(report: RunReport, program: Program, labelled: LabelledImages | None) -> str:
    """Returns the key of everything that the report will say."""
    identity = None
    if labelled is not None:
        path = Path(labelled.name)
        changed = max((file.stat().st_mtime_ns for file in (path, *path.rglob("*")) if file.exists()), default=0)
        labels = hashlib.sha256(labelled.labels.numpy().tobytes()).hexdigest()
        identity = [labelled.name, changed, labels, asdict(labelled.preprocessing)]
    return key_of(
        report=report.model_dump(exclude={"seconds"}),
        program=program.sha256,
        images=identity,
        runtime=onnxruntime().__version__,
        providers=[provider.name for provider in (TENSORRT, CUDA) if why_absent(provider) is None],
    )
