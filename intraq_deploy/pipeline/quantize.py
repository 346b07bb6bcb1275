"""The main job, in order: the only place that knows it."""

import hashlib
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from intraq_deploy.data.forms import SAMPLE
from intraq_deploy.data.labelled import LabelledImages
from intraq_deploy.data.loading import load_labelled
from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline import gate, records, stages
from intraq_deploy.pipeline.busy import load
from intraq_deploy.pipeline.candidate import GateCandidate
from intraq_deploy.pipeline.directories import choose_directory, config_of, goes_on, kept_before
from intraq_deploy.pipeline.dry_run import dry_run
from intraq_deploy.pipeline.estimate import estimate, faster
from intraq_deploy.pipeline.export import export_artifact
from intraq_deploy.pipeline.keeping import OpenStage, StageWork, kept_or_made
from intraq_deploy.pipeline.measurement import baselines
from intraq_deploy.pipeline.mixed import check_budget, choose_bits
from intraq_deploy.pipeline.options import QuantizeOptions, RunConfig, read_config
from intraq_deploy.pipeline.page.writing import write_page
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.report import CalibrationRecord, ImagesRecord, RunReport, read_report
from intraq_deploy.pipeline.run import Run, network_sentence, prepared
from intraq_deploy.pipeline.rundir import CONFIG, REPORT, key_of
from intraq_deploy.pipeline.schemes import check_depthwise
from intraq_deploy.program.program import Program
from intraq_deploy.quantization.layers_report import layer_rows
from intraq_deploy.quantization.placement import place
from intraq_deploy.recipes.overrides import too_few_images
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.providers import CUDA, TENSORRT, why_absent
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.team import ALONE, Team
from intraq_deploy.training.reconstruction import check_ranges
from intraq_deploy.wording import duration

VALIDATION = "validation"


def synthesize_run(
    options: QuantizeOptions, out: Path | None, progress: Progress, *, overwrite: bool = False
) -> tuple[RunReport, Path]:
    """Makes only the images, and returns the report and the run directory, which `quantize_run` continues.

    out and overwrite: as in `quantize_run`. Raises the package's errors for what cannot be read, traced or synthesized
    from.
    """
    where = partial(choose_directory, out=out, overwrite=overwrite, images_only=True)
    run = prepared(options, where, progress)
    progress.say(network_sentence(run))
    with run.directory.opened():
        _begin(run, config_of(run, images_only=True))
        _, record = _synthesized(run)
        return _keep(run, records.run_report(run, record))


def quantize_run(
    options: QuantizeOptions, out: Path | None, progress: Progress, *, overwrite: bool = False, team: Team = ALONE
) -> tuple[RunReport, Path]:
    """Takes every stage, and returns the report, whose status is "failed" if the gate is not passed, and the run
    directory.

    out: the run directory; None: one of the run's own, in runs/. overwrite: whether a run with other options may be
    replaced. Until this run is whole, the one before stays as it is. What can be wrong with the input is found before
    the directory is made. team: the processes that make it; this one leads. Raises the package's errors.
    """
    for target in options.targets:
        load_profile(target, options.own_targets)
    onnxruntime()
    run = prepared(options, partial(choose_directory, out=out, overwrite=overwrite), progress, team)
    progress.say(network_sentence(run))
    _ = run.calibration
    config = _as_before(run, config_of(run))
    labelled = None if config.options.eval is None else load_labelled(config.options.eval, run.model)
    scheme = run.scheme(None)
    place(run.graph, scheme)
    check_depthwise(run.graph, options.depthwise_bits, options.weight_bits)
    if run.recipe.reconstruction.enabled:
        check_ranges(scheme.ranges)
    if options.mixed is not None:
        check_budget(run, options.mixed)
    untrained = dry_run(run, scheme)
    with run.directory.opened():
        _begin(run, config, untrained, 0 if labelled is None else len(labelled))
        return _keep(run, _stages(run, labelled))


def _as_before(run: Run, config: RunConfig) -> RunConfig:
    """Returns the configuration with what the finished run of the same options has beyond it: the labelled images,
    where none are given now, and a person's own targets that were exported for since."""
    before = kept_before(run, config)
    if before is None:
        return config
    options, kept = config.options, before.options
    known = {profile.name for profile in options.own_targets}
    own = (*options.own_targets, *(each for each in kept.own_targets if each.name not in known))
    changes: dict[str, object] = {"own_targets": own}
    if options.eval is None and kept.eval is not None:
        where = kept.eval if kept.eval == SAMPLE else str(Path(before.folder) / kept.eval)
        if where == SAMPLE or Path(where).exists():
            changes["eval"] = where
            run.progress.say(f"Accuracy is measured on {where}, as before.")
        else:
            run.progress.warn(f"{where} is not there any more: give --eval to measure accuracy again.")
    return config.model_copy(update={"options": options.model_copy(update=changes)})


def _stages(run: Run, labelled: LabelledImages | None) -> RunReport:
    """Goes from the images to the gate."""
    made, record = _synthesized(run) if run.calibration is None else _calibrated(run)
    images = stages.RunImages(made, stages.images_key(run))
    mixed = None if run.options.mixed is None else choose_bits(run, images)
    scheme = run.scheme(mixed)
    rows = layer_rows(run.graph, place(run.graph, scheme))
    student = stages.fine_tune(run, images, scheme)
    program = stages.freeze_student(run, student.network, stages.student_key(run, scheme, images.key))
    bits = run.bits.label(mixed)
    artifacts = {target: export_artifact(run, target, program, bits) for target in run.options.targets}
    compared = baselines(run, made, mixed, quantized=labelled is not None)
    report = records.run_report(
        run,
        record,
        status="quantized",
        mixed=mixed,
        settled=student.settled,
        layers=records.layer_records(rows, program, student.noise),
        accumulator=records.accumulator_record(program),
        artifacts={name: records.artifact_record(run, artifact, program) for name, artifact in artifacts.items()},
    )

    def check(stage: OpenStage) -> RunReport:
        candidate = GateCandidate(student.network, program, artifacts, made, mixed=mixed)
        checked = gate.with_gate(report, run.model, candidate, gate.run_gate(run, candidate, labelled, compared))
        write_atomically(stage.folder / REPORT, checked.to_json())
        return checked

    key = _validation_key(report, program, labelled)
    return kept_or_made(run, StageWork(VALIDATION, key), lambda folder: read_report(folder / REPORT), check)


def _synthesized(run: Run) -> tuple[SyntheticSet, ImagesRecord]:
    made = stages.synthesize(run)
    return made.images, records.images_record(run, made.quality, made.noise)


def _calibrated(run: Run) -> tuple[SyntheticSet, CalibrationRecord]:
    own, wanted = run.calibration, run.options.images
    assert own is not None
    if wanted is not None and wanted > own.found:
        run.progress.warn(f"--images is {wanted}, and {own.name} has {own.found}: all of them are taken.")
    images = stages.calibrate(run, own)
    return images, records.calibration_record(images, own)


def _begin(run: Run, config: RunConfig, untrained: Program | None = None, labelled: int = 0) -> None:
    """Keeps what was asked for, and says how long it will take. The directory is open.

    untrained, labelled: as in `estimate`.
    """
    directory, images_only = run.directory, config.configuration is None
    kept = directory.path / CONFIG
    if kept.exists() and not goes_on(config, read_config(kept)):
        directory.clear()
    directory.write(CONFIG, config.to_json())
    few = too_few_images(run.recipe.synthesis, run.model.classes)
    # Rounding in closed form reads no label, and misses no class.
    if few is not None and run.calibration is None and (images_only or run.recipe.student.images):
        run.progress.warn(few)
    others = load()
    seconds = estimate(run, program=untrained, labelled=labelled, images_only=images_only)
    if seconds:
        parts = ", ".join(f"{stage} {duration(value)}" for stage, value in seconds.items())
        total = f"{duration(sum(seconds.values()))} ({parts})" if len(seconds) > 1 else parts
        run.progress.say(f"Estimated on this machine: {total}.")
    hint = faster(run, seconds)
    if hint is not None:
        run.progress.warn(hint)
    if others is not None and seconds:
        run.progress.warn(f"Other processes keep this machine busy (load {others:.1f}), so this is a rough estimate.")


def _keep(run: Run, report: RunReport) -> tuple[RunReport, Path]:
    """Puts the whole run, with its report, in the place of the one before. Returns the report and the run directory."""
    directory = run.directory
    assert directory.home is not None
    whole = report.changed(seconds=directory.seconds)
    if directory.is_as_before(stages.FREEZING):
        with suppress(RunError):  # a report that is damaged has nothing to keep
            whole = _with_others(whole, read_report(directory.home.path / REPORT))
        directory.inherit()
    directory.write(REPORT, whole.to_json())
    directory.publish()
    write_page(directory.home.path)
    return whole, directory.home.path


def _with_others(report: RunReport, before: RunReport) -> RunReport:
    """Returns the report with what is known of the same program's other files, and of engines made from its files."""
    made, kept = report.artifacts, before.artifacts
    built = {name for name in before.engines if name not in made or made[name].sha256 == kept[name].sha256}
    others = (kept.keys() - made.keys()) | built
    failures = [each for each in report.failures if each.target not in others]
    failures += [each for each in before.failures if each.target in others]
    return report.changed(
        artifacts={**made, **{name: each for name, each in kept.items() if name in others}},
        engines={name: each for name, each in before.engines.items() if name in built},
        parity={**report.parity, **{name: each for name, each in before.parity.items() if name in others}},
        failures=failures,
        status="failed" if failures else report.status,
    )


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
