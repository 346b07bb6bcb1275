"""The command `intraq-deploy bundle`: everything that a device needs, in one archive."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.completion import targets
from intraq_deploy.cli.console import show
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.wording import MIB

if TYPE_CHECKING:
    from intraq_deploy.pipeline.bundle import BundleReport

Target = Annotated[
    str, typer.Option(metavar="NAME", autocompletion=targets, help="The device, or one target, to pack for.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The bundle's folder; its archive is written beside. Default: bundles/NAME in the run directory.",
    ),
]


@command
def bundle(
    *, run: o.RunArgument, target: Target, out: Out = None, trust_pickle: o.TrustPickle = False, progress: Progress
) -> Outcome:
    """Pack a finished run for a device that has no intraq-deploy.

    The bundle holds the network for each of the device's runtimes, and run.py, which builds, checks, times and runs it
    there with Python 3.8 and numpy: the integers that must come out travel with it. Exits 3 where the file is missing
    that would be the device's best.
    """
    from intraq_deploy.pipeline.opening import Opening
    from intraq_deploy.pipeline.targets import find_for

    device, opening = find_for(run, target), Opening(run, trust_pickle)
    begin(progress, opening)
    from intraq_deploy.pipeline.bundle import bundle_run

    report = bundle_run(opening, device, out, progress)
    return Outcome(report.to_json, lambda: _show(report), report.exit_code)


def _show(report: "BundleReport") -> None:
    """Prints what was packed, and what to type on the device."""
    show(
        f"{report.archive}: {report.bytes / MIB:.2f} MiB, for {', '.join(report.targets)}. `check` compares "
        f"{report.integers:,} integers there."
    )
    for target, reason in report.left_out.items():
        show(f"{target} is left out: {reason}")
    if report.shortfall is not None:
        show(report.shortfall, "red", wrap=False)
    show("On the device, in the unpacked folder: python3 run.py doctor, then check.")
