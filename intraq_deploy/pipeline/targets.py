"""Targets and devices by what people type: a name, or the path of a file of their own. Imports no torch by itself."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from intraq_deploy.errors import RunError, UsageError
from intraq_deploy.targets.device.profile import DeviceProfile, device_names, load_device, read_device
from intraq_deploy.targets.profile import NO_TARGETS, TargetProfile, load_profile, profile_names
from intraq_deploy.targets.reading import parse, read
from intraq_deploy.wording import did_you_mean

__all__ = [
    "Catalogue",
    "Chosen",
    "DeviceProfile",
    "TargetProfile",
    "catalogue",
    "choose",
    "choose_for",
    "find",
    "find_for",
]
_FIRST_OPSET = 13
"""The first in which QuantizeLinear knows axes."""
_TAKEN = {"float", "fake_quant", "program", "float32", "w8a8", "a8", "cuda-float32", "cuda-float16"}
"""Names of what a run's report compares targets with."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The targets that --target stands for."""

    plain: tuple[str, ...]
    """Targets that were asked for themselves."""
    devices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The targets of every device that was asked for, by its name."""
    own: tuple[TargetProfile, ...] = ()
    """The person's own targets among them."""

    @property
    def targets(self) -> tuple[str, ...]:
        """All of the targets, each once."""
        return tuple(dict.fromkeys((*self.plain, *(name for names in self.devices.values() for name in names))))


class Catalogue(BaseModel):
    """Everything that ships with the package, or one thing of it."""

    devices: list[DeviceProfile]
    targets: list[TargetProfile]

    def to_json(self) -> str:
        """Returns the catalogue as JSON."""
        return self.model_dump_json(indent=2)


def choose(asked: Iterable[str | Path], kept: Iterable[TargetProfile] = ()) -> Chosen:
    """The targets that `asked` stands for: names of targets and devices, and paths of a person's own.

    kept: a run's own targets, known by their names. Raises UsageError for what is neither, and for a file that is none.
    """
    plain, devices, own = [], {}, {profile.name: profile for profile in kept}
    for text in map(str, asked):
        found = find(text, own.values())
        if isinstance(found, DeviceProfile):
            devices[found.name] = found.targets
            continue
        plain.append(found.name)
        if found.name not in profile_names():
            own[found.name] = found
    chosen = tuple(dict.fromkeys(plain))
    return Chosen(chosen, devices, tuple(own[name] for name in chosen if name in own))


def choose_for(run: Path, asked: Iterable[str]) -> Chosen:
    """Returns what `choose` returns, where the targets that a run keeps are known by their names too."""
    return choose(asked, _kept(run))


def choose_one(target: str | Path) -> tuple[str, tuple[TargetProfile, ...]]:
    """Returns the name of one target, and the person's own profiles. Raises UsageError for an unknown one, and for a
    device of several targets."""
    chosen = choose((target,))
    if len(chosen.targets) > 1:
        raise UsageError(f"{target} has several targets: give one of {', '.join(chosen.targets)}.")
    return chosen.targets[0], chosen.own


def find_for(run: Path, text: str) -> TargetProfile | DeviceProfile:
    """A target or device, where the targets that a run keeps are known by their names too. Raises UsageError for
    neither."""
    return find(text, _kept(run))


def _kept(run: Path) -> tuple[TargetProfile, ...]:
    from intraq_deploy.pipeline.options import kept_config  # noqa: PLC0415  it takes a while

    try:
        return kept_config(run).options.own_targets
    except RunError:  # which whoever works on the run will say
        return ()


def catalogue(name: str | None = None) -> Catalogue:
    """All that ships with the package; with a name (or a path) that device or target. Raises UsageError for neither."""
    if name is None:
        return Catalogue(
            devices=[load_device(device) for device in device_names()],
            targets=[load_profile(target) for target in profile_names()],
        )
    found = find(name)
    if isinstance(found, DeviceProfile):
        return Catalogue(devices=[found], targets=[])
    return Catalogue(devices=[], targets=[found])


def find(text: str, kept: Iterable[TargetProfile] = ()) -> TargetProfile | DeviceProfile:
    """A target or device by its name, or the path of a person's own. kept: targets that are known by their names too.

    Raises UsageError for neither.
    """
    for profile in kept:
        if profile.name == text:
            return profile
    if text in profile_names():
        return load_profile(text)
    if text in device_names():
        return load_device(text)
    if text in NO_TARGETS:
        raise UsageError(f"{text} is no target: {NO_TARGETS[text]}")
    if text.endswith(".toml") or "/" in text:
        return _read_own(Path(text))
    raise UsageError(f"The target {text!r} is unknown: {did_you_mean(text, [*profile_names(), *device_names()])}")


def _read_own(path: Path) -> TargetProfile | DeviceProfile:
    """A file with `passes` is a target, one with `targets` a device."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"The target {path} cannot be read ({reason}): give a TOML file.") from error
    values = parse("target", str(path), text)
    found: TargetProfile | DeviceProfile
    if "passes" in values:
        found = read("target", str(path), text, TargetProfile)
        _check_own(path, found)
    elif "targets" in values:
        found = read_device(str(path), text)
    else:
        raise UsageError(
            f"The target {path} has neither passes, as a target has, nor targets, as a device has: add one of them."
        )
    if found.name in {*profile_names(), *device_names(), *NO_TARGETS, *_TAKEN}:
        raise UsageError(f"The target {path} has name = {found.name!r}, which is taken: give it another one.")
    return found


def _check_own(path: Path, profile: TargetProfile) -> None:
    """Checks what the schema cannot know: passes and opsets, which come with onnx, and what a runtime asks for."""
    import onnx  # noqa: PLC0415

    from intraq_deploy.targets.onnx.lower import passes_of  # noqa: PLC0415

    passes_of(profile.passes, str(path))
    newest = onnx.defs.onnx_opset_version()
    if not _FIRST_OPSET <= profile.opset <= newest:
        raise UsageError(
            f"The target {path} has opset = {profile.opset}: give {_FIRST_OPSET}, the first with which layers are "
            f"quantized per channel, to {newest}, the newest of onnx {onnx.__version__}."
        )
    if profile.runtime == "tensorrt-rtx" and profile.compute_capability is None:
        raise UsageError(
            f"The target {path} is compiled ahead of time, and has no compute_capability: give that of its GPU, as in "
            '"8.6".'
        )
    cache = profile.calibration_cache
    if cache is not None and cache.count(".") != 2:
        raise UsageError(
            f'The target {path} has calibration_cache = "{cache}": give three numbers, as in "8.6.2", which the first '
            "line of a cache names."
        )
