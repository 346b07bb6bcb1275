"""The main job, in order: the only place that knows it."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from intraq_deploy.data import LabelledImages, UnlabelledImages, load_labelled
from intraq_deploy.errors import RunError, UsageError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline import gate, records, stages
from intraq_deploy.pipeline.engines import engines_here
from intraq_deploy.pipeline.estimate import estimate, faster
from intraq_deploy.pipeline.measurement import baselines
from intraq_deploy.pipeline.mixed import check_budget, choose_bits
from intraq_deploy.pipeline.options import (
    QuantizeOptions,
    RunConfig,
    check_apart,
    check_widths,
    make_options,
    read_config,
)
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.recipes import too_few_images
from intraq_deploy.pipeline.report import Bits, CalibrationRecord, ImagesRecord, RunReport, read_report
from intraq_deploy.pipeline.run import Run, machine, versions
from intraq_deploy.pipeline.rundir import CONFIG, REPORT, RunDirectory, key_of
from intraq_deploy.pipeline.sensitivity import SensitivityReport, measure_sensitivity
from intraq_deploy.program import Program, load_program
from intraq_deploy.quantization.layers_report import layer_rows
from intraq_deploy.quantization.placement import place
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.artifact import Artifact, read_manifest
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.providers import CUDA, TENSORRT, why_absent
from intraq_deploy.targets.profile import TargetProfile, load_profile
from intraq_deploy.training.reconstruction import check_ranges

VALIDATION = "validation"
PLACEMENT = "placement.json"


def synthesize_run(options: QuantizeOptions, out: Path, progress: Progress) -> RunReport:
    """Only the images. Leaves a run directory that `quantize_run` continues."""
    run = _prepare(options, RunDirectory(out), progress)
    with run.directory.opened():
        _begin(run, images_only=True)
        _, quality = stages.synthesize(run)
        return keep(run, _report(run, records.images_record(run, quality), "synthesized"))


def quantize_run(options: QuantizeOptions, out: Path, progress: Progress) -> RunReport:
    """Every stage; the report's status is "failed" if the gate is not passed.

    What can be wrong with the input is found before the directory is made. Raises the package's errors.
    """
    for target in options.targets:
        load_profile(target, options.own_targets)
    onnxruntime()
    run = _prepare(options, RunDirectory(out), progress)
    _ = run.calibration
    labelled = None if options.eval is None else load_labelled(options.eval, run.model)
    place(run.graph, run.scheme)
    if run.recipe.reconstruction.enabled:
        check_ranges(run.scheme.ranges)
    if options.mixed is not None:
        check_budget(run, options.mixed)
    with run.directory.opened():
        _begin(run)
        return keep(run, _stages(run, labelled))


def _stages(run: Run, labelled: LabelledImages | None) -> RunReport:
    """From the images to the gate."""
    images, made = _images(run)
    if run.options.mixed is not None:
        run.mixed = choose_bits(run, images)
    rows = layer_rows(run.graph, place(run.graph, run.scheme))
    run.directory.write(PLACEMENT, json.dumps([asdict(row) for row in rows], indent=1))
    student, settled = stages.fine_tune(run, images)
    program = stages.freeze_student(run, student)
    artifacts = {target: stages.export(run, target, program) for target in run.options.targets}
    compared = {} if labelled is None else baselines(run, images)
    report = _report(run, made, "quantized")
    report.settled, report.accumulator = settled, records.accumulator_record(program)
    report.artifacts = {
        target: records.artifact_record(run, artifact, program) for target, artifact in artifacts.items()
    }

    key = _validation_key(report, program, labelled)
    before = stages.kept(run, VALIDATION, key, lambda folder: read_report(folder / REPORT))
    if before is not None:
        return before.model_copy(update={"seconds": dict(run.seconds)})
    with stages.running(run, VALIDATION, key, 1, "") as (stage, _):
        gate.check(run, report, student, program, artifacts, images, labelled, compared, {})
        write_atomically(stage.folder / REPORT, report.to_json())
    report.seconds = dict(run.seconds)
    return report


def _images(run: Run) -> tuple[SyntheticSet, ImagesRecord | CalibrationRecord]:
    """What the network is quantized with: made from it, or a person's own."""
    if run.calibration is None:
        images, quality = stages.synthesize(run)
        return images, records.images_record(run, quality)
    wanted, found = run.options.images, run.calibration.found
    if wanted is not None and wanted > found:
        run.progress.warn(f"--images is {wanted}, and {run.calibration.name} has {found}: all of them are taken.")
    images = stages.calibrate(run, run.calibration)
    return images, records.calibration_record(images, run.calibration)


def kept_images(run: Run) -> SyntheticSet:
    """The same, as a finished run left it: a person's own images may be elsewhere by now."""
    if run.options.calibration is None:
        return stages.kept_images(run.directory.path / stages.SYNTHESIS)[0]
    return stages.kept_calibration(run.directory.path / stages.CALIBRATION)


def export_run(
    path: Path,
    targets: tuple[str, ...],
    trust_pickle: bool,
    progress: Progress,
    own: tuple[TargetProfile, ...] = (),
) -> RunReport:
    """Writes a finished run's program for `targets`. own: the person's own among them; the run keeps them."""
    with opened_run(path, trust_pickle, progress) as (run, report):
        add_targets(run, own)
        for target in targets:
            run.profile(target)
        program = load_program(path / stages.FREEZING)
        keep_targets(run)
        for target in targets:
            artifact = stages.export(run, target, program)
            report.artifacts[target] = records.artifact_record(run, artifact, program)
        return keep(run, report)


def add_targets(run: Run, own: tuple[TargetProfile, ...]) -> None:
    """Makes a person's own targets known to the run.

    Raises UsageError where one has changed that the program was made for.
    """
    kept = {profile.name: profile for profile in run.options.own_targets}
    for profile in own:
        if profile.name in run.options.targets and kept.get(profile.name) != profile:
            raise UsageError(
                f"The target {profile.name} is not what it was when {run.directory.path} was quantized for it: run "
                "quantize again, or give the changed one another name."
            )
        kept[profile.name] = profile
    run.options = run.options.model_copy(update={"own_targets": tuple(kept.values())})


def keep_targets(run: Run) -> None:
    """Writes the run's own targets into its configuration. The directory is open."""
    config = read_config(run.directory.path / CONFIG)
    if config.options.own_targets != run.options.own_targets:
        options = config.options.model_copy(update={"own_targets": run.options.own_targets})
        run.directory.write(CONFIG, config.model_copy(update={"options": options}).to_json())


def validate_run(
    path: Path, targets: tuple[str, ...], evaluate: str | None, trust_pickle: bool, progress: Progress
) -> RunReport:
    """Runs the gate again, on the files as they are. targets: empty for all that the run has."""
    onnxruntime()
    with opened_run(path, trust_pickle, progress) as (run, report):
        artifacts = kept_artifacts(path, report, targets)
        evaluate = evaluate or run.options.eval
        check_apart(run.options.calibration, evaluate)
        labelled = None if evaluate is None else load_labelled(evaluate, run.model)
        images = kept_images(run)
        student, _ = stages.kept_student(run, path / stages.FINE_TUNING)
        program = load_program(path / stages.FREEZING)
        compared = {} if labelled is None else baselines(run, images)
        engines = engines_here(run, artifacts)
        gate.check(run, report, student, program, artifacts, images, labelled, compared, engines)
        return keep(run, report)


def kept_artifacts(path: Path, report: RunReport, targets: tuple[str, ...]) -> dict[str, Artifact]:
    """What a finished run has for `targets`; empty: for all. Raises RunError for one that it has not."""
    for target in targets:
        if target not in report.artifacts:
            raise RunError(f"{path} has no artifact for {target}: run export {path} --target {target} first.")
    names = targets or tuple(report.artifacts)
    return {name: read_manifest((path / report.artifacts[name].path).parent) for name in names}


def sensitivity_run(
    path: Path, widths: tuple[int, ...], device: str, trust_pickle: bool, progress: Progress
) -> SensitivityReport:
    """What each layer's weight bits cost, on the images of any run.

    Raises UsageError for bits that are not supported, RunError for what is no run.
    """
    check_widths("--bits", widths)
    run, _ = kept_run(path, trust_pickle, progress)
    run.options = make_options(**dict(run.options) | {"device": device})
    images = kept_images(run)
    if run.options.calibration is not None:  # the table is of these, whatever is in the folder by now
        run.calibration = UnlabelledImages(run.options.calibration, images.images, len(images))
    with run.directory.opened():
        return measure_sensitivity(run, images, widths)


def _prepare(options: QuantizeOptions, directory: RunDirectory, progress: Progress) -> Run:
    """The run, its network loaded, traced and read, so that what cannot work fails before anything is made."""
    options.check()
    run = Run(options, directory, options.model.load(), progress)
    # First the graph: a person's own images would not help a network that cannot be traced.
    _ = run.device, run.recipe, run.graph
    if options.calibration is None:
        _ = run.probe
    return run


@contextmanager
def opened_run(path: Path, trust_pickle: bool, progress: Progress) -> Iterator[tuple[Run, RunReport]]:
    """A finished run that no other process changes until the block ends: what is read here is what is written on.

    Raises RunError for what is none, where nothing is made then, and for one that is in use.
    """
    read_config(path / CONFIG)
    with RunDirectory(path).opened():
        yield finished_run(path, trust_pickle, progress)


def finished_run(path: Path, trust_pickle: bool, progress: Progress) -> tuple[Run, RunReport]:
    """A run whose program is there, as it was, on the CPU, and its report."""
    run, report = kept_run(path, trust_pickle, progress)
    if report.status == "synthesized":
        raise RunError(f"{path} holds images only: run quantize with --out {path} first.")
    return run, report


def kept_run(path: Path, trust_pickle: bool, progress: Progress) -> tuple[Run, RunReport]:
    """A run that has its images at least, as it was, on the CPU, and its report."""
    config, report = read_config(path / CONFIG), read_report(path / REPORT)
    folder = Path(config.folder)
    model = config.options.model.located(folder).model_copy(update={"trust_pickle": trust_pickle})
    labelled = config.options.eval
    if labelled is not None and (folder / labelled).exists():
        labelled = str(folder / labelled)
    calibration = config.options.calibration
    changes = {
        "model": model,
        "eval": labelled,
        "calibration": None if calibration is None else str(folder / calibration),
        "device": "cpu",
    }
    options = config.options.model_copy(update=changes)
    run = _prepare(options, RunDirectory(path), progress)
    if run.weights_sha256 != config.weights_sha256:
        raise RunError(
            f"{model.source} is not the network that {path} was made from: put that one back, or run quantize again "
            "into another directory."
        )
    run.mixed = report.mixed
    return run, report


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
    if few is not None and run.calibration is None:
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


def _report(
    run: Run, images: ImagesRecord | CalibrationRecord, status: Literal["synthesized", "quantized"]
) -> RunReport:
    options = run.options
    return RunReport(
        status=status,
        model=records.model_record(run),
        bits=Bits(weights=options.weight_bits, activations=options.activation_bits),
        mixed=run.mixed,
        scheme=options.scheme,
        preset=options.recipe_name,
        seed=options.seed,
        device=run.device.type,
        versions=versions(),
        machine=machine(),
        input=options.input,
        images=images,
        reconstructed=run.recipe.reconstruction.enabled,
        steps=run.recipe.training.steps,
        seconds=dict(run.seconds),
    )


def keep(run: Run, report: RunReport) -> RunReport:
    """Writes the report into the run directory."""
    run.directory.write(REPORT, report.to_json())
    return report


def _validation_key(report: RunReport, program: Program, labelled: LabelledImages | None) -> str:
    """Of everything that the report will say."""
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
