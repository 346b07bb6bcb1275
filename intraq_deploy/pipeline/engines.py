"""Engines that a run has, opened where this machine can run them."""

from collections.abc import Iterable

from intraq_deploy.errors import IntraqError, TargetError
from intraq_deploy.pipeline.run import Run
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.engine import Engine, EngineSessions, open_engine, read_engine
from intraq_deploy.targets.tensorrt.host import Host, find_host

FOLDER = "engines"


def engines_here(run: Run, targets: Iterable[str]) -> dict[str, EngineSessions]:
    """By target, those that were built for this machine's GPU and TensorRT. Of the others a warning says why they are
    rehearsed."""
    opened = {}
    for target in targets:
        folder = run.directory.path / FOLDER / target
        if load_profile(target).runtime != "tensorrt" or not folder.is_dir():
            continue
        try:
            opened[target] = _opened(read_engine(folder), find_host(load_profile(target)))
        except IntraqError as error:
            run.progress.warn(f"{target}: its engine is not run ({str(error).rstrip('.')}); its file is rehearsed.")
    return opened


def _opened(engine: Engine, host: Host) -> EngineSessions:
    mine = host.product, host.gpu
    if (engine.compiler, engine.gpu) != mine:
        raise TargetError(f"it was built by {engine.compiler} for {engine.gpu}, and here is {' with '.join(mine)}")
    return open_engine(engine, host)
