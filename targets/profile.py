"""What a runtime can do, as a file: adding a target is adding a TOML file."""

from collections.abc import Iterable
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict

from intraq_deploy.errors import UsageError
from intraq_deploy.targets.reading import Name, Version, read
from intraq_deploy.wording import did_you_mean


class TargetProfile(BaseModel):
    """One target. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    runtime: Literal["onnxruntime", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"] = "onnxruntime"
    """onnxruntime: its CPU provider; onnxruntime-tensorrt: its TensorRT provider."""
    opset: int
    """Of the models that are written for it."""
    largest_opset: int | None = None
    """Of the models that it reads, where `lint` holds it."""
    passes: tuple[str, ...]
    """Dialect passes, in order."""
    vnni: bool = True
    """Whether products of unsigned inputs and signed weights are added in 32 bits: true of CPUs with VNNI and of arm64.
    Else two are added in 16 bits, and a model in which they could leave them is refused."""
    largest_weight: int | None = None
    """The greatest 8-bit weight code that training may use; None: all of them."""
    versions: tuple[Version, Version] | None = None
    """Of the runtime: from the first to before the second."""
    compute_capability: Version | None = None
    """Of the GPU that an engine is compiled for where that is done ahead of time."""
    calibration_cache: Version | None = None
    """For runtimes that also quantize a float network by a cache of scales: the version that its first line names."""
    unsigned_activations: bool = False
    """Whether 8-bit activations behind ReLU-like functions are trained with codes from 0 to 255 instead of 127."""


NO_TARGETS = {
    "onnxruntime-cuda": "ONNX Runtime's CUDA provider has no integer convolution; choose onnxruntime-tensorrt. Where "
    "CUDA loads, the float network is measured on it as a baseline."
}
"""Names that are asked for, and why there is no such target."""


def profile_names() -> list[str]:
    """The targets that ship with the package."""
    folder = resources.files("intraq_deploy.targets.profiles")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def profile_text(name: str) -> str:
    """The file of a target that ships with the package. Raises UsageError for an unknown one."""
    names = profile_names()
    if name in NO_TARGETS:
        raise UsageError(f"{name} is no target: {NO_TARGETS[name]}")
    if name not in names:
        raise UsageError(f"The target {name!r} is unknown: {did_you_mean(name, names)}")
    return (resources.files("intraq_deploy.targets.profiles") / f"{name}.toml").read_text()


def load_profile(name: str, own: Iterable[TargetProfile] = ()) -> TargetProfile:
    """The profile `name`: one of a person's `own`, or one that ships with the package. Raises UsageError for an unknown
    one."""
    for profile in own:
        if profile.name == name:
            return profile
    return read("target", name, profile_text(name), TargetProfile)
