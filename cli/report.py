"""The command `intraq-deploy report`: runs as a page for people. It imports no torch."""

import json
from pathlib import Path
from typing import Annotated

import typer

from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.console import show
from intraq_deploy.errors import UsageError

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run directory; several are shown side by side.")]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The file to write. Default: report.html, or report.md, in the run directory; for several runs in the "
        "current one.",
    ),
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Write a model card in Markdown. Default: a page in HTML.")]
Open = Annotated[bool, typer.Option("--open", help="Open the file in a browser. Default: off.")]


@command
def report(*, runs: Runs, out: Out = None, markdown: Markdown = False, open_it: Open = False) -> Outcome:
    """Write what is known of a run as one HTML file, which needs nothing beside it and loads nothing.

    Every `quantize` writes it too, as report.html in the run directory. Several runs are shown side by side.
    """
    if markdown and len(runs) > 1:
        raise UsageError(f"--markdown is for one run, and {len(runs)} are given: write a card of each.")
    from intraq_deploy.pipeline.page.writing import report_runs

    path = report_runs(runs, out, markdown=markdown)
    return Outcome(lambda: json.dumps({"report": str(path)}), lambda: _show(path, opened=open_it))


def _show(path: Path, *, opened: bool) -> None:
    show(f"The report is {path}.", wrap=False)
    if opened:
        import webbrowser

        if not webbrowser.open(path.absolute().as_uri()):
            show("No browser was found to open it.", "yellow")
