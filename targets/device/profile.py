"""Devices and what may be installed on them, as files: adding a device is adding a TOML file.

A device names the targets that its releases can run, best first. One program is written for all of them, and the device
takes the file that fits.
"""

from importlib import resources
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from intraq_deploy.errors import UsageError
from intraq_deploy.targets.profile import profile_names
from intraq_deploy.targets.reading import Name, Version, read
from intraq_deploy.wording import did_you_mean

Precision = Literal["int8", "fp4", "fp8", "bf16", "fp16", "tf32", "fp32"]
Figure = Literal["compute_capability", "memory_gib", "dla", "precisions", "trtexec"]


class Release(BaseModel):
    """Versions that come together on a device: a JetPack, or any other set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """The name of the release, for example "JetPack 6.2"."""
    tensorrt: Version | None = None
    """TensorRT's version, as far as it is known ("10.3"); None without TensorRT."""
    cuda: Version | None = None
    python: Version | None = None
    """The version of the system's interpreter."""
    onnxruntime: Version | None = None
    """The newest version that the release's Python can install."""
    source: str
    """The document that states these versions."""


class DeviceProfile(BaseModel):
    """One device. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    description: str
    machine: Literal["x86_64", "aarch64"]
    """The architecture, as `uname -m` prints it."""
    targets: tuple[str, ...] = Field(min_length=1)
    """Names of target profiles, the best first."""
    compute_capability: Version | None = None
    """The compute capability of the GPU; None without a GPU, or where any will do."""
    memory_gib: tuple[float, ...] = ()
    """Memory in GiB of each variant that is sold."""
    dla: int = 0
    """Deep learning accelerators, of the variant that has most."""
    precisions: tuple[Precision, ...] = ()
    """Types in which the hardware multiplies: "int8", "fp16", "fp8", ..."""
    trtexec: str | None = None
    """The path of trtexec."""
    releases: tuple[Release, ...] = ()
    """Releases, the newest first."""
    source: str
    """The document that states the hardware's figures."""
    sources: dict[Figure, str] = Field(default_factory=dict)
    """Other documents, for single figures."""
    note: str | None = None
    """A warning for whoever chooses this device."""

    @field_validator("targets")
    @classmethod
    def _known(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        names = profile_names()
        for target in targets:
            if target not in names:
                raise ValueError(f"there is no target {target}: {did_you_mean(target, names).rstrip('.')}")
        return targets

    def source_of(self, figure: Figure) -> str:
        """The document that states a figure."""
        return self.sources.get(figure, self.source)

    @property
    def figures(self) -> dict[Figure, object]:
        """The figures that the file gives."""
        return {figure: getattr(self, figure) for figure in get_args(Figure) if figure in self.model_fields_set}


def device_names() -> list[str]:
    """The devices that ship with the package."""
    folder = resources.files("intraq_deploy.targets.devices")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_device(name: str) -> DeviceProfile:
    """The device that ships as `name`. Raises UsageError for an unknown one."""
    names = device_names()
    if name not in names:
        raise UsageError(f"The device {name!r} is unknown: {did_you_mean(name, names)}")
    return read_device(name, (resources.files("intraq_deploy.targets.devices") / f"{name}.toml").read_text())


def read_device(name: str, text: str) -> DeviceProfile:
    """The device that a TOML text describes. name: for messages. Raises UsageError for what is no device."""
    return read("device", name, text, DeviceProfile)
