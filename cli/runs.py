"""The command `intraq-deploy runs`: the runs in a folder. It imports no torch."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.console import show
from intraq_deploy.wording import MIB

if TYPE_CHECKING:
    from intraq_deploy.pipeline.listing import RunList, RunRow

Folder = Annotated[Path, typer.Argument(metavar="[DIR]", help="The folder to look in, and in its folders.")]


@command
def runs(*, folder: Folder = Path("runs")) -> Outcome:
    """List the runs in a folder, and what came of them."""
    from intraq_deploy.pipeline.listing import list_runs

    found = list_runs(folder)
    return Outcome(found.to_json, lambda: _show(found))


def _show(found: "RunList") -> None:
    from rich.table import Column, Table

    numbers = ("top-1 %", "float %", "differ", "MiB")
    columns = (
        Column("run", overflow="fold"),
        *(Column(heading, overflow="fold") for heading in ("", "network", "bits")),
    )
    table = Table(*columns, *(Column(heading, justify="right", no_wrap=True) for heading in numbers), Column("made"))
    for row in found.runs:
        table.add_row(*_cells(row), style="red" if row.status == "failed" else "")
    show(table)
    finished = [row.path for row in found.runs if row.made is not None]
    if len(finished) > 1:
        show(f"Side by side: {shlex.join(['intraq-deploy', 'report', *finished[:2]])}", wrap=False)


def _cells(row: "RunRow") -> tuple[str, ...]:
    return (
        row.path,
        row.status,
        row.network or "",
        row.bits or "",
        "" if row.top1 is None else f"{row.top1:.2f}",
        "" if row.float_top1 is None else f"{row.float_top1:.2f}",
        "" if row.mismatched is None else f"{row.mismatched:,}",
        "" if row.bytes is None else f"{row.bytes / MIB:.2f}",
        row.made or "",
    )
