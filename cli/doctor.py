"""intraq-deploy doctor: what is here, and what is missing."""

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors
from intraq_deploy.errors import UsageError

PYTHON = "python3"


@reports_errors
def doctor(
    on: o.OnHost = None,
    port: o.Port = None,
    python: o.RemotePython = PYTHON,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Say what this machine, or another one, has of what is needed, with a remedy for each thing that is missing.

    GPU providers are tried, not only listed. Exits 1 if something is missing that everything needs.
    """
    from intraq_deploy.cli.render import print_json, render_doctor
    from intraq_deploy.pipeline.doctor import examine, examine_here

    if on is None and (port is not None or python != PYTHON):
        raise UsageError(f"{'--python' if port is None else '--port'} is for another machine: name it with --on.")
    found = examine_here() if on is None else examine(on, port, python)
    if json:
        print_json(found.to_json())
    else:
        render_doctor(found)
    if not found.ready:
        raise typer.Exit(1)
