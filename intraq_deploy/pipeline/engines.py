"""The engines of a run, opened where this machine can run them."""

from collections.abc import Mapping

from intraq_deploy.errors import IntraqError, TargetError
from intraq_deploy.pipeline.run import Run
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.tensorrt.engine import Engine, EngineSessions, open_engine, read_engine
from intraq_deploy.targets.tensorrt.host import Host, find_host

FOLDER = "engines"


def engines_here(run: Run, artifacts: Mapping[str, Artifact]) -> dict[str, EngineSessions]:
    """Returns the engines by target, of those that were built from the artifacts for this machine's GPU and TensorRT.

    A warning says why the files of others are rehearsed.
    """
    opened = {}
    for target, artifact in artifacts.items():
        folder = run.directory.path / FOLDER / target
        if run.profile(target).runtime != "tensorrt" or not folder.is_dir():
            continue
        try:
            opened[target] = _opened(read_engine(folder), artifact, find_host(run.profile(target)))
        except IntraqError as error:
            run.progress.warn(f"{target}: its engine is not run ({str(error).rstrip('.')}); its file is rehearsed.")
    return opened


def _opened(engine: Engine, artifact: Artifact, host: Host) -> EngineSessions:
    if engine.onnx_sha256 != artifact.sha256:
        raise TargetError("it was built of another file: run build again")
    mine = host.product, host.gpu
    if (engine.compiler, engine.gpu) != mine:
        raise TargetError(f"it was built by {engine.compiler} for {engine.gpu}, and here is {' with '.join(mine)}")
    return open_engine(engine, host)
