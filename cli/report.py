"""The command `intraq-deploy report`: runs as a page for people. It imports no torch."""

import json
from pathlib import Path
from typing import Annotated

import typer

from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.console import show

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
    from intraq_deploy.pipeline.page.writing import report as write

    path = write(*runs, out=out, markdown=markdown)
    opened = _opened(path) if open_it else True
    return Outcome(lambda: json.dumps({"report": str(path)}), lambda: _show(path, opened=opened))


def _opened(path: Path) -> bool:
    """Opens a file in a browser, and returns whether there is one."""
    import webbrowser

    return webbrowser.open(path.absolute().as_uri())


def _show(path: Path, *, opened: bool) -> None:
    show(f"The report is {path}.", wrap=False)
    if not opened:
        show("No browser was found to open it.", "yellow")
