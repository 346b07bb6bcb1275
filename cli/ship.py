"""The command `intraq-deploy ship`: to devices, over ssh."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.completion import targets
from intraq_deploy.cli.console import show
from intraq_deploy.errors import UsageError
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.wording import MIB

if TYPE_CHECKING:
    from intraq_deploy.pipeline.ship import ShipReport

Hosts = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="HOST", help="user@host, or a name from ~/.ssh/config; may be given several times."),
]
Fleet = Annotated[Path | None, typer.Option(metavar="FILE", help='A TOML file with hosts = ["user@a", "user@b"].')]
Target = Annotated[
    str | None,
    typer.Option(autocompletion=targets, help="A device or target. Default: what each host is found to be."),
]
Folder = Annotated[
    str | None, typer.Option("--dir", metavar="PATH", help="On the hosts. Default: ~/intraq-deploy/RUN-DEVICE.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the commands alone. Default: run them.")]


@command
def ship(
    *,
    run: o.RunArgument,
    to: Hosts = None,
    fleet: Fleet = None,
    port: o.Port = None,
    target: Target = None,
    folder: Folder = None,
    python: o.RemotePython = "python3",
    evaluate: o.Eval = None,
    dry_run: DryRun = False,
    trust_pickle: o.TrustPickle = False,
    progress: Progress,
) -> Outcome:
    """Copy a finished run to devices, and build, check and time it there.

    Through the system's ssh, with its configuration, agents and host-key checks; nothing is asked, and no password or
    key is read. What a device has already is not sent again, and a broken copy goes on. Exits 3 if a check fails.
    """
    from intraq_deploy.pipeline import shipment as shipping
    from intraq_deploy.pipeline.targets import find_for

    if bool(to) == (fleet is not None):
        raise UsageError("Give hosts, with --to user@host or with --fleet hosts.toml: one of the two.")
    hosts = tuple(to or ()) if fleet is None else tuple(shipping.fleet(fleet))
    asked = None if target is None else find_for(run, target)
    shipment = shipping.Shipment(hosts, port, asked, target, folder, python)
    if dry_run:
        commands = shipping.dry_run(run, shipment, evaluate)
        return Outcome(_no_json, lambda: print(*commands, sep="\n"))
    shipment.check(run)
    begin(progress)
    from intraq_deploy.pipeline.opening import Opening
    from intraq_deploy.pipeline.ship import ship_run

    report = ship_run(Opening(run, trust_pickle), shipment, evaluate, progress)
    return Outcome(report.to_json, lambda: show_shipping(report), report.exit_code)


def _no_json() -> str:
    """Raises UsageError: a dry run has no report."""
    raise UsageError("--dry-run prints commands, and --json has none: give one of the two.")


def show_shipping(report: "ShipReport") -> None:
    """Prints one row for each host, what its check found, and what went wrong."""
    from rich.table import Column, Table

    figures = (Column(heading, justify="right") for heading in ("ms, batch 1", "p99", "copied MiB"))
    table = Table("host", "device", "runtime", *figures)
    for host in report.hosts:
        check, bench = host.answers.get("check"), host.answers.get("bench")
        one = None if bench is None else bench["batches"][0]
        # Some versions of trtexec say no percentiles.
        known = (None, None) if one is None else (one["median_ms"], one["p99_ms"])
        times = ("" if value is None else f"{value:.3f}" for value in known)
        runtime = "" if check is None else f"{check['runtime']} {check['version']}"
        cells = (host.host, host.device or "", runtime, *times, f"{host.sent_bytes / MIB:.2f}")
        table.add_row(*cells, style="red" if host.failure else "")
    show(table)
    for host in report.hosts:
        check = host.answers.get("check")
        if check is not None:
            show(
                f"{host.host}: {check['differ']:,} of {check['integers']:,} integers differ from the reference "
                f"({check['tensors']} tensors, {check['images_with_codes']} images)."
            )
        if host.accuracy is not None:
            found = f"{host.accuracy['top1']:.2f} % top-1 on {host.accuracy['images']:,.0f} labelled images"
            show(f"{host.host}: {found}.")
        if host.failure is not None:
            show(host.failure, "red", wrap=False)
    show(f"{report.run}/device holds each host's full answers.", wrap=False)
