"""The command `intraq-deploy export`: a finished run for more targets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.console import show
from intraq_deploy.cli.summary import show_artifacts
from intraq_deploy.pipeline.progress import Progress

if TYPE_CHECKING:
    from intraq_deploy.pipeline.report import RunReport

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Copy the files there too, one folder for each target. Default: they are in the run directory alone.",
    ),
]


@command
def export(
    *,
    run: o.RunArgument,
    target: o.Target = None,
    out: Out = None,
    trust_pickle: o.TrustPickle = False,
    progress: Progress,
) -> Outcome:
    """Write a finished run's integers for a target."""
    from intraq_deploy.pipeline.opening import Opening
    from intraq_deploy.pipeline.options import DEFAULT_TARGETS
    from intraq_deploy.pipeline.targets import choose_for

    chosen = choose_for(run, target or DEFAULT_TARGETS)
    opening = Opening(run, trust_pickle, own_targets=chosen.own)
    begin(progress, opening)
    from intraq_deploy.pipeline.export import export_run

    report = export_run(opening, chosen.targets, progress, out=out)
    return Outcome(report.to_json, lambda: _show(report, run, chosen.targets, out))


def _show(report: "RunReport", run: Path, targets: tuple[str, ...], out: Path | None) -> None:
    show_artifacts(report, str(run))
    for target in targets if out is not None else ():
        show(f"{target}: copied to {out}/{target}", wrap=False)
