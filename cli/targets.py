"""intraq-deploy targets: what can be shipped for. Without a path it imports no torch."""

from typing import Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors


@reports_errors
def targets(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A device or target, or the path of your own. Default: a table of all.",
            show_default=False,
        ),
    ] = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Devices and targets: what --target can name.

    A device is a machine with all the targets that it can run; a target is one runtime with what it can do. With NAME,
    everything that is known of it, and where from.
    """
    from intraq_deploy.cli.render_targets import render_catalogue, render_device, render_target
    from intraq_deploy.pipeline.targets import catalogue

    found = catalogue(name)
    if json:
        typer.echo(found.to_json())
    elif name is None:
        render_catalogue(found)
    else:
        for device in found.devices:
            render_device(device)
        for target in found.targets:
            render_target(target)
