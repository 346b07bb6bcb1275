"""intraq-deploy ship: to devices, over ssh."""

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors
from intraq_deploy.errors import UsageError


@reports_errors
def ship(
    run: o.RunArgument,
    to: o.Hosts = None,
    fleet: o.Fleet = None,
    port: o.Port = None,
    target: o.ShipTarget = None,
    folder: o.RemoteFolder = None,
    python: o.RemotePython = "python3",
    evaluate: o.Eval = None,
    dry_run: o.DryRun = False,
    trust_pickle: o.TrustPickle = False,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Copy a finished run to devices, and build, check and time it there.

    Through the system's ssh, with its configuration, agents and host-key checks; nothing is asked, and no password or
    key is read. What a device has already is not sent again, and a broken copy goes on. Exits 3 if a check fails.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_shipping
    from intraq_deploy.pipeline import ship as shipping
    from intraq_deploy.pipeline.finished import Opening
    from intraq_deploy.pipeline.targets import find_for

    if bool(to) == (fleet is not None):
        raise UsageError("Give hosts, with --to user@host or with --fleet hosts.toml: one of the two.")
    hosts = tuple(to or ()) if fleet is None else tuple(shipping.fleet(fleet))
    asked = None if target is None else find_for(run, target)
    shipment = shipping.Shipment(hosts, port, asked, target, folder, python)
    if dry_run and json:
        raise UsageError("--dry-run prints commands, and --json has none: give one of the two.")
    if dry_run:
        for line in shipping.dry_run(run, shipment, evaluate):
            typer.echo(line)
        return
    with make_progress() as progress:
        report = shipping.ship_run(Opening(run, trust_pickle), shipment, evaluate, progress)
    if json:
        print_json(report.to_json())
    else:
        render_shipping(report)
    if report.exit_code:
        raise typer.Exit(report.exit_code)
