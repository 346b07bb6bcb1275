"""Engines: a finished run's program, exported for a target and compiled by its compiler."""

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
from intraq_deploy.targets.tensorrt.engine import Engine, build, read_engine
from intraq_deploy.targets.tensorrt.imports import tensorrt_rtx

COMPILED = ("tensorrt-rtx",)
"""Runtimes whose compilers run on this machine."""


def build_run(path: Path, targets: tuple[str, ...], trust_pickle: bool, progress: Progress) -> RunReport:
    """Exports and compiles for `targets`; what is there already is not made again.

    Raises UsageError for a target without a compiler, TargetError where the compiler refuses the model.
    """
    profiles = [load_profile(target) for target in targets]
    for profile in profiles:
        if profile.runtime not in COMPILED:
            raise UsageError(
                f"{profile.name} has no compiler that runs here: build for tensorrt-rtx, which needs no GPU, or ship "
                f"the file of `intraq-deploy export {path} --target {profile.name}` and build it on the device."
            )
    tensorrt_rtx()
    run, report = finished_run(path, trust_pickle, progress)
    program = load_program(path / stages.FREEZING)
    with run.directory.opened():
        for profile in profiles:
            artifact = stages.export(run, profile.name, program)
            report.artifacts[profile.name] = records.artifact_record(run, artifact)
            report.engines[profile.name] = _record(run, _engine(run, profile, artifact))
        return keep(run, report)


def _engine(run: Run, profile: TargetProfile, artifact: Artifact) -> Engine:
    name = f"engines/{profile.name}"
    key = key_of(
        onnx=artifact.sha256, compiler=tensorrt_rtx().__version__, compute_capability=profile.compute_capability
    )
    before = stages.kept(run, name, key, read_engine)
    if before is not None:
        return before
    with stages.running(run, name, key, 1, "") as (stage, _):
        return build(artifact, profile, stage.folder)


def _record(run: Run, engine: Engine) -> EngineRecord:
    return EngineRecord(
        path=records.relative(run.directory.path, engine.path),
        bytes=engine.bytes,
        sha256=engine.sha256,
        compiler=engine.compiler,
        compute_capability=engine.compute_capability,
        seconds=round(engine.seconds, 2),
        layers=engine.layers,
    )
