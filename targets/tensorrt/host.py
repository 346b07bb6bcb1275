"""TensorRT on this machine. It builds for the GPU that is here, for its own version, and for nothing else."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from intraq_deploy.targets.profile import TargetProfile
from intraq_deploy.targets.tensorrt.builder import Plan, build_plan, make_logger
from intraq_deploy.targets.tensorrt.imports import tensorrt
from intraq_deploy.targets.tensorrt.versions import Switches, parsed, switches_of

from intraq_deploy.errors import TargetError
from intraq_deploy.files import write_atomically

_SHARE = 0.5
"""Of the free memory, for kernels' work space: the rest is for weights, activations and whoever else is here."""


@dataclass(frozen=True, slots=True)
class Host:
    """The runtime and the GPU."""

    runtime: ModuleType
    version: str
    switches: Switches
    gpu: str
    compute_capability: str
    free: int
    """Bytes of its memory."""

    @property
    def product(self) -> str:
        return f"TensorRT {self.version}"


def find_host(profile: TargetProfile) -> Host:
    """Raises TargetError where TensorRT or a GPU is missing, or the version is not the profile's."""
    runtime = tensorrt()
    version = str(runtime.__version__)
    switches = switches_of(version)
    if profile.versions is not None:
        since, before = profile.versions
        if not parsed(since) <= parsed(version) < parsed(before):
            raise TargetError(
                f"TensorRT {version} is installed, and {profile.name} is for {since} to before {before}: choose "
                "another target (docs/tensorrt.md lists them)."
            )
    if not torch.cuda.is_available():
        raise TargetError(
            f"TensorRT {version} is installed, but torch sees no GPU to build for: build on the device, or for "
            "tensorrt-rtx, which needs none."
        )
    major, minor = torch.cuda.get_device_capability()
    free, _ = torch.cuda.mem_get_info()
    return Host(runtime, version, switches, torch.cuda.get_device_name(), f"{major}.{minor}", free)


def build_on(host: Host, model: bytes, timing_cache: Path) -> Plan:
    """An engine for this GPU. timing_cache: read if it is there, and written; one of another GPU or version is refused
    by TensorRT itself, and then made anew.

    Raises TargetError where the model is refused or memory does not suffice.
    """
    before = timing_cache.read_bytes() if timing_cache.is_file() else b""
    plan = build_plan(
        host.runtime,
        host.product,
        host.switches,
        model,
        workspace=int(_SHARE * host.free),
        timing_cache=before,
    )
    write_atomically(timing_cache, plan.timing_cache)
    return plan


def layer_information(host: Host, plan: Plan) -> str:
    """What TensorRT says of an engine's layers, as JSON. Raises TargetError for an engine that it cannot load again."""
    logger = make_logger(host.runtime)
    engine = host.runtime.Runtime(logger).deserialize_cuda_engine(plan.engine)
    if engine is None:
        said = "; ".join(logger.errors) or "it gave no reason"
        raise TargetError(
            f"{host.product} cannot load the engine that it has just built ({said}): free memory, and retry."
        )
    return str(engine.create_engine_inspector().get_engine_information(host.runtime.LayerInformationFormat.JSON))
