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
    target: Annotated[str, typer.Option(metavar="NAME", help="What it is to run on.", show_default=False)],
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Check an ONNX file against a target's rules.

    Names each layer that the target would refuse, compute wrongly or leave in float, the rule, and where the rule
    comes from. Exits 3 if a layer would be refused or wrong.
    """
    from intraq_deploy.cli.progress import make_progress
    from intraq_deploy.cli.render import print_json, render_findings

    from intraq_deploy.pipeline.linting import lint_file

    with make_progress():
        report = lint_file(file, target)
    if json:
        print_json(report.to_json())
    else:
        render_findings(report)
    if report.refused:
        raise typer.Exit(GateError.exit_code)
