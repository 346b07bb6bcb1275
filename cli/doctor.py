"""The command `intraq-deploy doctor`: what is here, and what is missing."""

from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.console import show
from intraq_deploy.errors import UsageError

if TYPE_CHECKING:
    from intraq_deploy.pipeline.doctor import DoctorReport

OnHost = Annotated[
    str | None,
    typer.Option("--on", metavar="HOST", help="user@host, or a name from ~/.ssh/config. Default: here."),
]
PYTHON = "python3"


@command
def doctor(*, on: OnHost = None, port: o.Port = None, python: o.RemotePython = PYTHON) -> Outcome:
    """Say what this machine, or another one, has of what is needed, with a remedy for each thing that is missing.

    GPU providers are tried, not only listed. Exits 1 if something is missing that everything needs.
    """
    from intraq_deploy.pipeline.doctor import examine, examine_here

    if on is None and (port is not None or python != PYTHON):
        raise UsageError(f"{'--python' if port is None else '--port'} is for another machine: name it with --on.")
    found = examine_here() if on is None else examine(on, port, python)
    return Outcome(found.to_json, lambda: _show(found), 0 if found.ready else 1)


def _show(doctor: "DoctorReport") -> None:
    """Prints one line for each finding, its remedy below."""
    width = max(len(finding.what) for finding in doctor.findings)
    for finding in doctor.findings:
        mark, style = ("ok", "") if finding.remedy is None else ("NO", "red") if finding.needed else ("--", "yellow")
        show(f"{mark}  {finding.what:{width}}  {finding.found}", style, wrap=False)
        if finding.remedy is not None:
            show(f"    {'':{width}}  {finding.remedy}", wrap=False)
    where = "this machine" if doctor.host is None else doctor.host
    missing = "nothing is missing that everything needs" if doctor.ready else "see the lines marked NO"
    show(f"{where}: {missing}; lines marked -- matter for some targets only.")
