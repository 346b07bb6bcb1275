"""What a runtime and device can do, as a file: adding a device is adding a TOML file."""

import difflib
import tomllib
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from intraq_deploy.errors import TargetError, UsageError


class TargetProfile(BaseModel):
    """One target. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
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
    versions: tuple[str, str] | None = None
    """Of the runtime: from the first to before the second."""
    compute_capability: str | None = None
    """Of the GPU that an engine is compiled for where that is done ahead of time."""
    calibration_cache: str | None = None
    """For runtimes that also quantize a float network by a cache of scales: the version that its first line names."""
    unsigned_activations: bool = False
    """Whether 8-bit activations behind ReLU-like functions are trained with codes from 0 to 255 instead of 127."""


_NO_TARGETS = {
    "onnxruntime-cuda": "ONNX Runtime's CUDA provider has no integer convolution; choose onnxruntime-tensorrt. Where "
    "CUDA loads, the float network is measured on it as a baseline."
}


def profile_names() -> list[str]:
    """The targets that ship with the package."""
    folder = resources.files("intraq_deploy.targets.profiles")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_profile(name: str) -> TargetProfile:
    """The profile `name`. Raises UsageError for an unknown one, TargetError for a broken file."""
    names = profile_names()
    if name in _NO_TARGETS:
        raise UsageError(f"{name} is no target: {_NO_TARGETS[name]}")
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}."
        raise UsageError(f"The target {name!r} is unknown: {hint}")
    text = (resources.files("intraq_deploy.targets.profiles") / f"{name}.toml").read_text()
    try:
        return TargetProfile.model_validate(tomllib.loads(text))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise TargetError(f"The profile {name}.toml is not valid: {error}") from error
