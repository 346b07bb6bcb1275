"""Profiles of targets, as TOML files: adding a target is adding a file."""

import platform
from collections.abc import Iterable
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict

from intraq_deploy.errors import UsageError
from intraq_deploy.targets.reading import Name, Version, read
from intraq_deploy.wording import did_you_mean


class TargetProfile(BaseModel):
    """A target: its runtime, and the form of the models that are written for it. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    runtime: Literal["onnxruntime", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx"] = "onnxruntime"
    """The runtime. onnxruntime is its CPU provider, onnxruntime-tensorrt its TensorRT provider."""
    machine: Literal["x86_64", "aarch64"] | None = None
    """The kind of machine that the target is for; None: any. On another one its models are checked, and not timed."""
    opset: int
    """The opset of the models that are written for the target."""
    largest_opset: int | None = None
    """The largest opset of the models that the target reads; None: `lint` does not check it."""
    passes: tuple[str, ...]
    """The names of the dialect passes, in order."""
    vnni: bool = True
    """Whether products of unsigned inputs and signed weights are added in 32 bits, as CPUs with VNNI and arm64 do.
    Other CPUs add two of them in 16 bits, and `lint` refuses a model in which they could overflow."""
    largest_weight: int | None = None
    """The greatest 8-bit weight code that training may use; None: all of them."""
    versions: tuple[Version, Version] | None = None
    """The versions of the runtime, from the first to before the second."""
    compute_capability: Version | None = None
    """The compute capability of the GPU that an engine is compiled for ahead of time."""
    calibration_cache: Version | None = None
    """The version in the first line of a calibration cache, for runtimes that also quantize a float network by one."""
    unsigned_activations: bool = False
    """Whether 8-bit activations behind ReLU-like functions are trained with codes from 0 to 255 instead of 127."""

    @property
    def is_for_this_machine(self) -> bool:
        """Whether times on this machine are those of the target's users."""
        return self.machine in (None, platform.machine())


NO_TARGETS = {
    "onnxruntime-cuda": "ONNX Runtime's CUDA provider has no integer convolution; choose onnxruntime-tensorrt. Where "
    "CUDA loads, the float network is measured on it as a baseline."
}
"""The reasons why names that people ask for are no targets, by name."""


def profile_names() -> list[str]:
    """The names of the targets that ship with the package."""
    folder = resources.files("intraq_deploy.targets.profiles")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def profile_text(name: str) -> str:
    """The text of a built-in target's file. Raises UsageError for an unknown target."""
    names = profile_names()
    if name in NO_TARGETS:
        raise UsageError(f"{name} is no target: {NO_TARGETS[name]}")
    if name not in names:
        raise UsageError(f"The target {name!r} is unknown: {did_you_mean(name, names)}")
    return (resources.files("intraq_deploy.targets.profiles") / f"{name}.toml").read_text()


def load_profile(name: str, own: Iterable[TargetProfile] = ()) -> TargetProfile:
    """The profile of that name: one of a person's `own`, or a built-in one. Raises UsageError for an unknown target."""
    for profile in own:
        if profile.name == name:
            return profile
    return read("target", name, profile_text(name), TargetProfile)
