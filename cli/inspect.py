"""The command `intraq-deploy inspect`: what a network is, and what would be quantized."""

from typing import TYPE_CHECKING

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.console import show
from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.pipeline.progress import Progress

if TYPE_CHECKING:
    from intraq_deploy.pipeline.inspection import Inspection


@command
def inspect(*, bits: o.BitsGroup, scheme: o.SchemeName = "integer", model: o.ModelGroup, progress: Progress) -> Outcome:
    """Show what a network is, and what would be quantized.

    Shows architecture, classes and batch norms, and, layer by layer, what would run on integers and what in float and
    why. Exits 1 for a network that cannot be quantized.
    """
    options = model.options()
    options.check()
    begin(progress)
    from intraq_deploy.pipeline.inspection import inspect_model
    from intraq_deploy.pipeline.report import Bits

    asked = Bits(weights=bits.weights, activations=bits.activations, depthwise=bits.depthwise_bits)
    inspection = inspect_model(options.load(), scheme, asked)
    return Outcome(
        inspection.to_json, lambda: _show(inspection), 0 if inspection.rows else UnsupportedModelError.exit_code
    )


def _show(inspection: "Inspection") -> None:
    """Prints what the network is, and one row for each layer."""
    from rich.table import Column, Table

    show(
        f"{inspection.architecture}: {inspection.classes} classes, input {'x'.join(map(str, inspection.input_shape))}, "
        f"{inspection.parameters:,} parameters, {inspection.batch_norms} batch norms.\n"
        f"Preprocessing: mean {list(inspection.mean)}, std {list(inspection.std)} ({inspection.preprocessing_source})."
    )
    for problem in inspection.problems:
        show(problem, "red")
    if not inspection.rows:
        return
    headings = ("layer", "operator", "weight", "output", "runs on", "why")
    columns = (Column(heading, overflow="fold") for heading in headings)
    table = Table(*columns, title=f"{inspection.bits}, scheme {inspection.scheme}")
    for row in inspection.rows:
        place, style = ("integers", "") if row.integer else ("float", "yellow")
        table.add_row(row.name, row.operator, row.weight, row.output, place, row.reason, style=style)
    show(table)
