"""What a device is and may have installed, as a file: adding a device is adding a TOML file.

A device names the targets that its releases can run, best first: one program is written for all of them, and the device
takes the file that fits what it has.
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
    """What comes together on a device: JetPack's releases, or any other set of versions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """ "JetPack 6.2"."""
    tensorrt: Version | None = None
    """Its version, as far as it is known ("10.3"); None without."""
    cuda: Version | None = None
    python: Version | None = None
    """Of the system's interpreter."""
    onnxruntime: Version | None = None
    """The newest that its Python can install."""
    source: str
    """Where these versions are known from."""


class DeviceProfile(BaseModel):
    """One device. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    description: str
    machine: Literal["x86_64", "aarch64"]
    """As `uname -m` says it."""
    targets: tuple[str, ...] = Field(min_length=1)
    """Names of target profiles, the best first."""
    compute_capability: Version | None = None
    """Of its GPU; None without, or where any will do."""
    memory_gib: tuple[float, ...] = ()
    """Of the variants that are sold."""
    dla: int = 0
    """Deep learning accelerators, of the variant that has most."""
    precisions: tuple[Precision, ...] = ()
    """That its hardware multiplies in: "int8", "fp16", "fp8", ..."""
    trtexec: str | None = None
    """Where its TensorRT has it."""
    releases: tuple[Release, ...] = ()
    """The newest first."""
    source: str
    """Where the hardware's figures are known from."""
    sources: dict[Figure, str] = Field(default_factory=dict)
    """Of single figures, where it is another one."""
    note: str | None = None
    """What a person should know before choosing it."""

    @field_validator("targets")
    @classmethod
    def _known(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        names = profile_names()
        for target in targets:
            if target not in names:
                raise ValueError(f"there is no target {target}: {did_you_mean(target, names).rstrip('.')}")
        return targets

    def source_of(self, figure: Figure) -> str:
        return self.sources.get(figure, self.source)

    @property
    def figures(self) -> dict[Figure, object]:
        """Those that are given."""
        return {figure: getattr(self, figure) for figure in get_args(Figure) if figure in self.model_fields_set}


def device_names() -> list[str]:
    """The devices that ship with the package."""
    folder = resources.files("intraq_deploy.targets.devices")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_device(name: str) -> DeviceProfile:
    """The device `name`. Raises UsageError for an unknown one."""
    names = device_names()
    if name not in names:
        raise UsageError(f"The device {name!r} is unknown: {did_you_mean(name, names)}")
    return read_device(name, (resources.files("intraq_deploy.targets.devices") / f"{name}.toml").read_text())


def read_device(name: str, text: str) -> DeviceProfile:
    """From TOML. name: for messages. Raises UsageError for what is no device."""
    return read("device", name, text, DeviceProfile)
