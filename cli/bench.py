"""The command `intraq-deploy bench`: speed on this machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.console import show
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.wording import MIB

if TYPE_CHECKING:
    from intraq_deploy.pipeline.bench import BenchReport


@command
def bench(
    *,
    run: o.RunArgument,
    target: o.Target = None,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1,
    threads: Annotated[int, typer.Option(help="Of ONNX Runtime.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long to measure, all models together.")] = 20.0,
    trust_pickle: o.TrustPickle = False,
    progress: Progress,
) -> Outcome:
    """Time a finished run's files on this machine, beside float32 and ONNX Runtime's own INT8.

    All run in turn in one process, so that what slows the machine slows all of them; ratios are of the same rounds.
    """
    from intraq_deploy.pipeline.opening import Opening
    from intraq_deploy.pipeline.options import BenchOptions
    from intraq_deploy.pipeline.targets import choose_for

    targets = choose_for(run, target or ()).targets
    opening, options = Opening(run, trust_pickle), BenchOptions(batch, threads, seconds)
    begin(progress, opening, options)
    from intraq_deploy.pipeline.bench import bench_run

    report = bench_run(opening, targets, options, progress)
    return Outcome(report.to_json, lambda: _show(report))


def _show(report: "BenchReport") -> None:
    """Prints one row for each model."""
    from rich.table import Column, Table

    threads = f"{report.threads} thread" + "s" * (report.threads > 1)
    table = Table(
        "",
        *(Column(heading, justify="right") for heading in ("MiB", "ms", "times as fast as float32")),
        title=f"{report.architecture} {report.bits}, batch {report.batch}, {threads}",
        caption=f"Medians of {report.rounds} rounds, 95 % intervals. ONNX Runtime {report.onnxruntime}, "
        f"{report.machine}.",
    )
    for row in report.rows:
        value, low, high = row.speed
        ratio = "" if row.name == "float32" else f"{value:.2f} ({low:.2f} to {high:.2f})"
        table.add_row(row.name, f"{row.bytes / MIB:.2f}", f"{row.milliseconds:.3f}", ratio)
    show(table)
    if report.elsewhere:
        show(f"On the device only: {', '.join(report.elsewhere)}.")
