"""The command `intraq-deploy sensitivity`: what each layer's bits cost."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.console import show
from intraq_deploy.pipeline.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

    from intraq_deploy.pipeline.sensitivity_report import LayerSensitivity, SensitivityReport

BitsToTry = Annotated[str, typer.Option(metavar="A,B,..", help="Bits of weights to try, 2 to 8 each.")]


@command
def sensitivity(
    *,
    run: o.RunArgument,
    bits: BitsToTry = "2,3,4,5,6,7,8",
    device: o.Device = "auto",
    trust_pickle: o.TrustPickle = False,
    progress: Progress,
) -> Outcome:
    """Measure what each layer's weight bits cost, on a run's synthetic images.

    Quantizes one layer's weights at a time, everything else staying at 8 bits, and compares with the float network. RUN
    needs its images only.
    """
    from intraq_deploy.pipeline.opening import Opening

    widths, opening = o.parse_bits("--bits", bits), Opening(run, trust_pickle, device)
    begin(progress, opening)
    from intraq_deploy.pipeline.sensitivity import sensitivity_run

    report = sensitivity_run(opening, widths, progress)
    return Outcome(report.to_json, lambda: _show(report, str(run)))


def _show(report: "SensitivityReport", directory: str) -> None:
    """Prints one row per layer, one column per width below 8, which is the reference."""
    reference = report.reference
    title = f"{report.architecture}: one layer's weights at fewer bits, everything else at 8 ({report.images} images)"
    show(title, wrap=False)
    increase, lost = "Increase of KL(float || quantized) in nats, by bits", "Points of top-1 agreement lost, by bits"
    show(_table(report, increase, report.kl_increase, digits=4))
    show(_table(report, lost, report.agreement_lost, digits=1))
    show(
        f"Everything at 8 bits: KL {reference.kl:.4f}, agreement {reference.agreement:.1f} %.\n"
        f"{directory}/sensitivity: sensitivity.png shows it; .json and .csv hold every figure.",
        wrap=False,
    )


def _table(
    report: "SensitivityReport", title: str, figure: "Callable[[LayerSensitivity, int], float]", digits: int
) -> "Table":
    from rich import box
    from rich.table import Column, Table

    widths = [bits for bits in report.widths if bits != report.reference_bits]
    figures = (Column(str(bits), justify="right", no_wrap=True) for bits in widths)
    columns = (Column("layer", overflow="fold"), Column("weights", justify="right"), *figures)
    table = Table(*columns, title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for layer in report.layers:
        table.add_row(layer.name, f"{layer.weights:,}", *(f"{figure(layer, bits):.{digits}f}" for bits in widths))
    return table
