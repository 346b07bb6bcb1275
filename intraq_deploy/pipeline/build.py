"""Engines: a finished run's program, exported for a target and compiled by its compiler; checked and timed where the
GPU is."""

from dataclasses import dataclass

import torch

from intraq_deploy.errors import TargetError, UsageError
from intraq_deploy.pipeline import records
from intraq_deploy.pipeline.engines import FOLDER
from intraq_deploy.pipeline.export import export_artifact
from intraq_deploy.pipeline.finished import KeptRun, opened_run
from intraq_deploy.pipeline.gate import float_layers, parity_failures, parity_images
from intraq_deploy.pipeline.keeping import OpenStage, StageWork, kept_or_made
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.report import EngineRecord, ParityRecord, RunReport
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.pipeline.targets import Chosen
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.freeze import float_program
from intraq_deploy.program.program import Program
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
    """Returns the targets that `build` compiles for: of a device's those that have engines, and whose compiler is here.

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


def build_run(opening: Opening, targets: tuple[str, ...], progress: Progress) -> RunReport:
    """Exports and compiles for `targets`; what is there already is not made again. Engines for this machine's GPU are
    run: their integers compared, their time measured; the record's `failures` say what was found wrong. The opening's
    own targets are kept by the run.

    Raises UsageError for a target that has no engines, TargetError where a runtime or GPU is missing or refuses the
    model.
    """
    makers = [_maker(load_profile(target, opening.own_targets)) for target in targets]
    with opened_run(opening, progress) as finished:
        _ = finished.program
        finished.keep_targets()
        report = finished.report
        for maker in makers:
            report = _built(finished, report, maker)
        return finished.keep(report)


def _built(finished: KeptRun, report: RunReport, maker: "_Maker") -> RunReport:
    """Returns the report with one target's artifact and engine, and with what was found of the engine."""
    run, program, name = finished.run, finished.program, maker.profile.name
    artifact = export_artifact(run, name, program, report.label)
    engine = _engine(run, maker, artifact, program)
    record = _record(run, engine)
    changes: dict[str, object] = {}
    if maker.profile.runtime != "tensorrt-rtx":
        record, parity = _checked(finished, artifact, record, engine, maker.host)
        failures = [failure for failure in report.failures if failure.target != name] + record.failures
        changes = {
            "parity": {**report.parity, name: parity},
            "failures": failures,
            "status": "failed" if failures else "passed",
        }
    artifacts = {**report.artifacts, name: records.artifact_record(run, artifact, program)}
    return report.changed(artifacts=artifacts, engines={**report.engines, name: record}, **changes)


@dataclass(frozen=True, slots=True)
class _Maker:
    """The compiler of a profile's engines on this machine."""

    profile: TargetProfile
    identity: tuple[str, ...]
    """The runtime, its version, the GPU: an engine of another one is not this one's."""
    host: Host | None
    """The machine of TensorRT's own engines; None for other compilers."""


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
    def make(stage: OpenStage) -> Engine:
        if maker.profile.runtime == "onnxruntime-tensorrt":
            return build_context(artifact, stage.folder)
        if maker.host is None:
            return build_ahead(artifact, maker.profile, stage.folder)
        timing = stage.folder.parent / f"timing-{key_of(host=maker.identity)[:12]}.cache"
        floating = lower(float_program(run.graph, program.normalization), maker.profile, {}).data
        return build_here(artifact, program, in_float16(floating), maker.host, stage.folder, timing)

    key = key_of(onnx=artifact.sha256, maker=maker.identity)
    return kept_or_made(run, StageWork(f"{FOLDER}/{maker.profile.name}", key), read_engine, make)


def _checked(
    finished: KeptRun, artifact: Artifact, record: EngineRecord, engine: Engine, host: Host | None
) -> tuple[EngineRecord, ParityRecord]:
    """Returns the engine's record with its times and failures, and its comparison with the program. Without a host,
    ONNX Runtime's provider runs the artifact."""
    program = finished.program
    sessions = None if host is None else open_engine(engine, host)
    inputs, *expected = parity_images(finished.run.model, finished.student, program, finished.images)
    validation = validate(artifact, program, inputs, sessions)
    changes: dict[str, object] = {}
    failures = list(parity_failures(artifact.target, validation))
    if sessions is not None:
        failures += float_layers(artifact, program, engine)
        image = torch.zeros_like(inputs[:1])
        changes["milliseconds"] = sessions.shipped.milliseconds(image)
        changes["float16_milliseconds"] = sessions.float16.milliseconds(image)
    parity = records.parity_record(validation, *expected)
    return record.model_copy(update={**changes, "failures": failures}), parity


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
