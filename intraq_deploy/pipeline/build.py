"""Engines: a finished run's program, exported for a target and compiled by its compiler; checked and timed where the
GPU is."""

from dataclasses import dataclass
from pathlib import Path

import torch

from intraq_deploy.errors import TargetError, UsageError
from intraq_deploy.pipeline import records, stages
from intraq_deploy.pipeline.engines import FOLDER
from intraq_deploy.pipeline.gate import float_layers, parity_failures, parity_images
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.quantize import add_targets, keep, keep_targets, kept_images, opened_run
from intraq_deploy.pipeline.report import EngineRecord, RunReport
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.pipeline.targets import Chosen
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program import Program, float_program, load_program
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnx.lower import lower
from intraq_deploy.targets.onnxruntime.gpu import find_gpu
from intraq_deploy.targets.onnxruntime.half import in_float16
from intraq_deploy.targets.profile import TargetProfile, load_profile
from intraq_deploy.targets.tensorrt.engine import (
    Engine,
    build_ahead,
    build_context,
    build_here,
    open_engine,
    read_engine,
)
from intraq_deploy.targets.tensorrt.host import Host, find_host
from intraq_deploy.targets.tensorrt.imports import tensorrt_rtx


def built_here(chosen: Chosen, progress: Progress) -> tuple[str, ...]:
    """What `build` makes of a choice: of a device's targets those that have engines, and whose compiler is here.

    Raises UsageError for a device without engines, TargetError where none of a device's can be built here.
    """
    names = list(chosen.plain)
    for device, targets in chosen.devices.items():
        profiles = [load_profile(target, chosen.own) for target in targets]
        engines = [profile for profile in profiles if profile.runtime != "onnxruntime"]
        if not engines:
            raise UsageError(f"{device} has no engines: its ONNX file is what is shipped (`intraq-deploy export`).")
        names += _those_here(engines, progress)
    return tuple(dict.fromkeys(names))


def _those_here(profiles: list[TargetProfile], progress: Progress) -> list[str]:
    found, absent = [], {}
    for profile in profiles:
        try:
            _maker(profile)
            found.append(profile.name)
        except TargetError as error:
            absent[profile.name] = error
    if not found:
        raise next(iter(absent.values()))
    for name, why in absent.items():
        progress.warn(f"{name} is not built: {why}")
    return found


def build_run(
    path: Path,
    targets: tuple[str, ...],
    trust_pickle: bool,
    progress: Progress,
    own: tuple[TargetProfile, ...] = (),
) -> RunReport:
    """Exports and compiles for `targets`; what is there already is not made again. Engines for this machine's GPU are
    run: their integers compared, their time measured; the record's `failures` say what was found wrong. own: the
    person's own among them; the run keeps them.

    Raises UsageError for a target that has no engines, TargetError where a runtime or GPU is missing or refuses the
    model.
    """
    makers = [_maker(load_profile(target, own)) for target in targets]
    with opened_run(path, trust_pickle, progress) as (run, report):
        add_targets(run, own)
        program = load_program(path / stages.FREEZING)
        keep_targets(run)
        for maker in makers:
            name = maker.profile.name
            artifact = stages.export(run, name, program)
            report.artifacts[name] = records.artifact_record(run, artifact, program)
            engine = _engine(run, maker, artifact, program)
            report.engines[name] = _record(run, engine)
            if maker.profile.runtime != "tensorrt-rtx":
                _check(run, report, artifact, program, engine, maker.host)
        return keep(run, report)


@dataclass(frozen=True, slots=True)
class _Maker:
    """What makes a profile's engines on this machine."""

    profile: TargetProfile
    identity: tuple[str, ...]
    """Runtime, version, GPU: an engine of another one is not this one's."""
    host: Host | None
    """TensorRT's own; None for other compilers."""


def _maker(profile: TargetProfile) -> _Maker:
    match profile.runtime:
        case "tensorrt-rtx":
            return _Maker(profile, ("tensorrt-rtx", tensorrt_rtx().__version__, str(profile.compute_capability)), None)
        case "tensorrt":
            host = find_host(profile)
            return _Maker(profile, (host.product, host.gpu, host.compute_capability), host)
        case "onnxruntime-tensorrt":
            return _Maker(profile, find_gpu(), None)
    raise UsageError(f"{profile.name} has no engines: its ONNX file is what is shipped (`intraq-deploy export`).")


def _engine(run: Run, maker: _Maker, artifact: Artifact, program: Program) -> Engine:
    name = f"{FOLDER}/{maker.profile.name}"
    key = key_of(onnx=artifact.sha256, maker=maker.identity)
    before = stages.kept(run, name, key, read_engine)
    if before is not None:
        return before
    with stages.running(run, name, key, 1, "") as (stage, _):
        if maker.profile.runtime == "onnxruntime-tensorrt":
            return build_context(artifact, stage.folder)
        if maker.host is None:
            return build_ahead(artifact, maker.profile, stage.folder)
        timing = stage.folder.parent / f"timing-{key_of(host=maker.identity)[:12]}.cache"
        floating = lower(float_program(run.traced, program.normalization), maker.profile, {}).data
        return build_here(artifact, program, in_float16(floating), maker.host, stage.folder, timing)


def _check(
    run: Run, report: RunReport, artifact: Artifact, program: Program, engine: Engine, host: Host | None
) -> None:
    """Fills in the engine's times and failures, the target's parity, and the status. Without a host, ONNX Runtime's
    provider runs the artifact."""
    record = report.engines[artifact.target]
    sessions = None if host is None else open_engine(engine, host)
    student, _ = stages.kept_student(run, run.directory.path / stages.FINE_TUNING)
    inputs, trained = parity_images(student, program, kept_images(run))
    validation = validate(artifact, program, inputs, sessions)
    report.parity[artifact.target] = records.parity_record(validation, trained)
    record.failures = parity_failures(artifact.target, validation)
    if sessions is not None:
        record.failures += float_layers(artifact, program, engine)
        image = torch.zeros_like(inputs[:1])
        record.milliseconds = sessions.shipped.milliseconds(image)
        record.float16_milliseconds = sessions.float16.milliseconds(image)
    others = [failure for failure in report.failures if not failure.startswith(f"{artifact.target}: ")]
    report.failures = others + record.failures
    report.status = "failed" if report.failures else "passed"


def _record(run: Run, engine: Engine) -> EngineRecord:
    return EngineRecord(
        path=records.relative(run.directory.path, engine.path),
        bytes=engine.bytes,
        sha256=engine.sha256,
        compiler=engine.compiler,
        compute_capability=engine.compute_capability,
        gpu=engine.gpu,
        seconds=round(engine.seconds, 2),
        layers=engine.layers,
    )
