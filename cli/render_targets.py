"""Devices and targets as tables."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from intraq_deploy.pipeline.targets import Catalogue, DeviceProfile, TargetProfile

_NONE = "-"


def render_catalogue(catalogue: "Catalogue") -> None:
    """A row for each device, then one for each target."""
    console = Console()
    console.print(_devices(catalogue.devices))
    console.print(_targets(catalogue.targets))
    console.print(
        "GPU: compute capability. `intraq-deploy targets NAME` says where each figure is from.", highlight=False
    )


def _devices(devices: list["DeviceProfile"]) -> Table:
    table = _table("Devices", ("device", "hardware", "targets, best first", "releases"), narrow=(1,))
    for device in devices:
        gpu = "" if device.compute_capability is None else f", GPU {device.compute_capability}"
        dla = f", {device.dla} DLA" if device.dla else ""
        hardware = [f"{device.machine}{gpu}{dla}", ", ".join(device.precisions)]
        if device.memory_gib:
            hardware.insert(1, f"{_memory(device)} GiB")
        releases = [release.name for release in device.releases]
        table.add_row(device.name, "\n".join(hardware), "\n".join(device.targets), "\n".join(releases))
    return table


def _targets(targets: list["TargetProfile"]) -> Table:
    table = _table("Targets", ("target", "runtime", "opset", "passes"), narrow=(3,))
    for target in targets:
        versions = "" if target.versions is None else "\n{} to before {}".format(*target.versions)
        table.add_row(target.name, target.runtime + versions, str(target.opset), ", ".join(target.passes))
    return table


def render_device(device: "DeviceProfile") -> None:
    """Every figure with its source, and the releases with theirs."""
    console = Console()
    console.print(f"{device.name}: {device.description} ({device.machine})", highlight=False, markup=False)
    console.print(f"Targets, the best first: {', '.join(device.targets)}.", highlight=False, markup=False)
    if device.note is not None:
        console.print(device.note, highlight=False, markup=False)
    figures = _table("", ("figure", "value", "known from"), narrow=(1, 2))
    for figure in device.figures:
        figures.add_row(_WORDS[figure], escape(_value(device, figure)), escape(device.source_of(figure)))
    console.print(figures)
    if device.releases:
        releases = _table("", ("release", "TensorRT", "CUDA", "Python", "ONNX Runtime", "known from"), narrow=(5,))
        for release in device.releases:
            versions = (release.tensorrt, release.cuda, release.python, release.onnxruntime)
            releases.add_row(escape(release.name), *(version or _NONE for version in versions), escape(release.source))
        console.print(releases)


def render_target(target: "TargetProfile") -> None:
    """What a target file says, a line for each key."""
    table = _table(target.name, ("key", "value"), narrow=(1,))
    for key, value in target.model_dump(exclude={"name"}, exclude_none=True).items():
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        table.add_row(key, escape(shown or _NONE))
    Console().print(table)


_WORDS = {
    "compute_capability": "GPU",
    "memory_gib": "memory",
    "dla": "DLA",
    "precisions": "precisions",
    "trtexec": "trtexec",
}


def _value(device: "DeviceProfile", figure: str) -> str:
    match figure:
        case "compute_capability":
            return f"compute capability {device.compute_capability}"
        case "memory_gib":
            return f"{_memory(device)} GiB"
        case "precisions":
            return ", ".join(device.precisions)
    return str(getattr(device, figure))


def _memory(device: "DeviceProfile") -> str:
    return ", ".join(f"{size:g}" for size in device.memory_gib) or _NONE


def _table(title: str, headings: tuple[str, ...], narrow: tuple[int, ...]) -> Table:
    """narrow: the columns that are folded where space is short; the others stay whole."""
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=index not in narrow)
    return table
