"""intraq-deploy lint: what a target would refuse or compute wrongly."""

from pathlib import Path
from typing import Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors
from intraq_deploy.errors import GateError


@reports_errors
def lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Any ONNX model, ours or not.", show_default=False)],
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What it is to run on: a target, a device, or the path of your own.",
            show_default=False,
        ),
    ],
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Check an ONNX file against a target's rules.

    Names each layer that the target would refuse, compute wrongly or leave in float, the rule, and where the rule
    comes from. Exits 3 if a layer would be refused or wrong; for a device, if none of its targets takes the file.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_findings, render_fit
    from intraq_deploy.pipeline.linting import lint_file, list_json
    from intraq_deploy.pipeline.targets import choose

    chosen = choose((target,))
    with make_progress():
        reports = [lint_file(file, name, chosen.own) for name in chosen.targets]
    if json:
        print_json(list_json(reports) if chosen.devices else reports[0].to_json())
    else:
        for report in reports:
            render_findings(report)
        for device in chosen.devices:
            render_fit(device, reports)
    if all(report.refused for report in reports):
        raise typer.Exit(GateError.exit_code)
