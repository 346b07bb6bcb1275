"""The command `intraq-deploy lint`: what a target would refuse or compute wrongly."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.completion import targets
from intraq_deploy.cli.console import show
from intraq_deploy.cli.summary import SHOWN_FAILURES
from intraq_deploy.errors import DataError, GateError

if TYPE_CHECKING:
    from intraq_deploy.pipeline.linting import LintReport

File = Annotated[Path, typer.Argument(metavar="FILE", help="Any ONNX model, ours or not.")]
Target = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        autocompletion=targets,
        help="What it is to run on: a target, a device, or the path of your own.",
    ),
]


@command
def lint(*, file: File, target: Target) -> Outcome:
    """Check an ONNX file against a target's rules.

    Names each layer that the target would refuse, compute wrongly or leave in float, the rule, and where the rule
    comes from. Exits 3 if a layer would be refused or wrong; for a device, if none of its targets takes the file.
    """
    from intraq_deploy.pipeline.targets import choose

    chosen = choose((target,))
    if not file.exists():
        raise DataError(f"{file} cannot be read (No such file or directory): give an ONNX file.")
    from intraq_deploy.pipeline.linting import lint_file, list_json

    reports = [lint_file(file, name, chosen.own) for name in chosen.targets]
    refused = all(report.refused for report in reports)
    return Outcome(
        lambda: list_json(reports) if chosen.devices else reports[0].to_json(),
        lambda: _show(reports, chosen.devices),
        GateError.exit_code if refused else 0,
    )


def _show(reports: list["LintReport"], devices: Iterable[str]) -> None:
    for report in reports:
        _show_findings(report)
    for device in devices:
        _show_fit(device, reports)


def _show_findings(report: "LintReport") -> None:
    """Prints one paragraph per rule, those that matter first, with the first layers."""
    rules = {finding.rule: finding.refused for finding in report.findings}
    for rule in sorted(rules, key=lambda rule: not rules[rule]):
        broken = [finding for finding in report.findings if finding.rule == rule]
        kind, style = ("refused or wrong", "red") if rules[rule] else ("slower", "yellow")
        show(f"{rule} ({kind}; {broken[0].source})", style)
        for finding in broken[:SHOWN_FAILURES]:
            show(f"  {finding.what}.", wrap=False)
        if len(broken) > SHOWN_FAILURES:
            show(f"  ... and {len(broken) - SHOWN_FAILURES} more; --json has all.")
    show(f"{report.summary}.", wrap=False)


def _show_fit(device: str, reports: list["LintReport"]) -> None:
    """Prints whether a device can run a file, after what each of its targets says of it."""
    taken = [report.target for report in reports if not report.refused]
    refused = [report.target for report in reports if report.refused]
    sentence = f"{device} takes it as {' or '.join(taken)}" if taken else f"{device} cannot run it"
    if refused:
        sentence += f"{', not' if taken else ''} as {' or '.join(refused)}"
    show(f"{sentence}.", "" if taken else "red", wrap=False)
