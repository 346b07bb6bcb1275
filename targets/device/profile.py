"""What a device is and may have installed, as a file: adding a device is adding a TOML file.

A device names the targets that its releases can run, best first: one program is written for all of them, and the device
takes the file that fits what it has.
"""

import difflib
import tomllib
from importlib import resources
from typing import Literal

from intraq_deploy.targets.profile import profile_names
from pydantic import BaseModel, ConfigDict, ValidationError

from intraq_deploy.errors import TargetError, UsageError


class Release(BaseModel):
    """What comes together on a device: JetPack's releases, or any other set of versions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """ "JetPack 6.2"."""
    tensorrt: str | None = None
    """Its version, as far as it is known ("10.3"); None without."""
    cuda: str | None = None
    python: str | None = None
    """Of the system's interpreter."""
    onnxruntime: str | None = None
    """The newest that its Python can install."""
    source: str
    """Where these versions are known from."""


class DeviceProfile(BaseModel):
    """One device. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    machine: Literal["x86_64", "aarch64"]
    """As `uname -m` says it."""
    targets: tuple[str, ...]
    """Names of target profiles, the best first."""
    compute_capability: str | None = None
    """Of its GPU; None without, or where any will do."""
    memory_gib: tuple[float, ...] = ()
    """Of the variants that are sold."""
    dla: int = 0
    """Deep learning accelerators."""
    precisions: tuple[str, ...] = ()
    """That its hardware multiplies in: "int8", "fp16", "fp8", ..."""
    trtexec: str | None = None
    """Where its TensorRT has it."""
    releases: tuple[Release, ...] = ()
    """The newest first."""
    source: str
    """Where the hardware's figures are known from."""


def device_names() -> list[str]:
    """The devices that ship with the package."""
    folder = resources.files("intraq_deploy.targets.devices")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_device(name: str) -> DeviceProfile:
    """The device `name`. Raises UsageError for an unknown one, TargetError for a broken file."""
    names = device_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise UsageError(
            f"The device {name!r} is unknown: "
            + (f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}.")
        )
    return read_device(name, (resources.files("intraq_deploy.targets.devices") / f"{name}.toml").read_text())


def read_device(name: str, text: str) -> DeviceProfile:
    """From TOML. name: for messages. Raises TargetError for what is no device."""
    try:
        device = DeviceProfile.model_validate(tomllib.loads(text))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise TargetError(f"The device {name} is not valid: {error}") from error
    unknown = [target for target in device.targets if target not in profile_names()]
    if unknown or not device.targets:
        what = f"has the unknown target {unknown[0]}" if unknown else "names no targets"
        raise TargetError(f"The device {name} {what}: known are {', '.join(profile_names())}.")
    return device
