"""Engines: a finished run's program, exported for a target and compiled by its compiler."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from intraq_deploy.errors import UsageError
from intraq_deploy.pipeline import records, stages
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.quantize import finished_run, keep
from intraq_deploy.pipeline.report import EngineRecord, RunReport
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.program import load_program
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.profile import TargetProfile, load_profile
from intraq_deploy.targets.tensorrt.engine import Engine, build_ahead, build_here, read_engine
from intraq_deploy.targets.tensorrt.host import find_host
from intraq_deploy.targets.tensorrt.imports import tensorrt_rtx


def build_run(path: Path, targets: tuple[str, ...], trust_pickle: bool, progress: Progress) -> RunReport:
    """Exports and compiles for `targets`; what is there already is not made again.

    Raises UsageError for a target that has no engines, TargetError where a runtime or GPU is missing or refuses the
    model.
    """
    profiles = [load_profile(target) for target in targets]
    makers = [_maker(profile) for profile in profiles]
    run, report = finished_run(path, trust_pickle, progress)
    program = load_program(path / stages.FREEZING)
    with run.directory.opened():
        for profile, maker in zip(profiles, makers, strict=True):
            artifact = stages.export(run, profile.name, program)
            report.artifacts[profile.name] = records.artifact_record(run, artifact)
            report.engines[profile.name] = _record(run, _engine(run, profile, artifact, maker))
        return keep(run, report)


@dataclass(frozen=True, slots=True)
class _Maker:
    """What makes a profile's engines on this machine."""

    identity: tuple[str, ...]
    """Runtime, version, GPU: an engine of another one is not this one's."""
    make: Callable[[Artifact, Path], Engine]


def _maker(profile: TargetProfile) -> _Maker:
    match profile.runtime:
        case "tensorrt-rtx":
            compiler = ("tensorrt-rtx", tensorrt_rtx().__version__, str(profile.compute_capability))
            return _Maker(compiler, lambda artifact, folder: build_ahead(artifact, profile, folder))
        case "tensorrt":
            host = find_host(profile)
            builder = ("tensorrt", host.version, host.gpu, host.compute_capability)

            def make(artifact: Artifact, folder: Path) -> Engine:
                timing = folder.parent / f"timing-{key_of(host=builder)[:12]}.cache"
                return build_here(artifact, host, folder, timing)

            return _Maker(builder, make)
    raise UsageError(f"{profile.name} has no engines: its ONNX file is what is shipped (`intraq-deploy export`).")


def _engine(run: Run, profile: TargetProfile, artifact: Artifact, maker: _Maker) -> Engine:
    name = f"engines/{profile.name}"
    key = key_of(onnx=artifact.sha256, maker=maker.identity)
    before = stages.kept(run, name, key, read_engine)
    if before is not None:
        return before
    with stages.running(run, name, key, 1, "") as (stage, _):
        return maker.make(artifact, stage.folder)


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
