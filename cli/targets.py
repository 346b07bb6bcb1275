"""The command `intraq-deploy targets`: what can be shipped for. Without a path it imports no torch."""

from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.console import show

if TYPE_CHECKING:
    from rich.table import Table

    from intraq_deploy.pipeline.targets import Catalogue, DeviceProfile, TargetProfile

Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="A device or target, or the path of your own. Default: a table of all."),
]
_NONE = "-"
_FIGURES = {"compute_capability": "GPU", "memory_gib": "memory", "dla": "DLA"}
"""The figures of a device profile, as people read them; the others have their own names."""


@command
def targets(*, name: Name = None) -> Outcome:
    """Devices and targets: what --target can name.

    A device is a machine with all the targets that it can run; a target is one runtime with what it can do. With NAME,
    everything that is known of it, and where from.
    """
    from intraq_deploy.pipeline.targets import catalogue

    found = catalogue(name)
    return Outcome(found.to_json, lambda: _show_all(found) if name is None else _show_one(found))


def _show_all(catalogue: "Catalogue") -> None:
    """Prints a row for each device, then one for each target."""
    show(_devices(catalogue.devices))
    show(_targets(catalogue.targets))
    show("GPU: compute capability. `intraq-deploy targets NAME` says where each figure is from.")


def _show_one(catalogue: "Catalogue") -> None:
    for device in catalogue.devices:
        _show_device(device)
    for target in catalogue.targets:
        _show_target(target)


def _devices(devices: list["DeviceProfile"]) -> "Table":
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


def _targets(targets: list["TargetProfile"]) -> "Table":
    table = _table("Targets", ("target", "runtime", "opset", "passes"), narrow=(3,))
    for target in targets:
        versions = "" if target.versions is None else "\n{} to before {}".format(*target.versions)
        table.add_row(target.name, target.runtime + versions, str(target.opset), ", ".join(target.passes))
    return table


def _show_device(device: "DeviceProfile") -> None:
    """Prints every figure with its source, and the releases with theirs."""
    show(f"{device.name}: {device.description} ({device.machine})")
    show(f"Targets, the best first: {', '.join(device.targets)}.")
    if device.note is not None:
        show(device.note)
    figures = _table("", ("figure", "value", "known from"), narrow=(1, 2))
    for figure in device.figures:
        figures.add_row(_FIGURES.get(figure, figure), _value(device, figure), device.source_of(figure))
    show(figures)
    if device.releases:
        releases = _table("", ("release", "TensorRT", "CUDA", "Python", "ONNX Runtime", "known from"), narrow=(5,))
        for release in device.releases:
            versions = (release.tensorrt, release.cuda, release.python, release.onnxruntime)
            releases.add_row(release.name, *(version or _NONE for version in versions), release.source)
        show(releases)


def _show_target(target: "TargetProfile") -> None:
    """Prints what a target's file says, a row for each key."""
    table = _table(target.name, ("key", "value"), narrow=(1,))
    for key, value in target.model_dump(exclude={"name"}, exclude_none=True).items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        table.add_row(key, text or _NONE)
    show(table)


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


def _table(title: str, headings: tuple[str, ...], narrow: tuple[int, ...]) -> "Table":
    """Returns an empty table. narrow: the columns that are folded where space is short; the others stay whole."""
    from rich import box
    from rich.table import Column, Table

    columns = (Column(text, overflow="fold", no_wrap=index not in narrow) for index, text in enumerate(headings))
    return Table(*columns, title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
