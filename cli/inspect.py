"""The command `intraq-deploy inspect`: what a network is, and what would be quantized."""

from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.command import Outcome, begin, command
from intraq_deploy.cli.console import show
from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.wording import MIB

if TYPE_CHECKING:
    from intraq_deploy.pipeline.inspection import Inspection
    from intraq_deploy.pipeline.options import QuantizeOptions

Layers = Annotated[
    bool, typer.Option("--layers", help="List every layer: its bits, where it runs, and why. Default: off.")
]
_SHOWN = 5
_FLOAT_BYTES = 4


@command
def inspect(
    *,
    layers: Layers = False,
    bits: o.BitsGroup,
    scheme: o.SchemeName = "integer",
    model: o.ModelGroup,
    progress: Progress,
) -> Outcome:
    """Show what a network is, and whether it can be quantized.

    Says what would run on integers and what in float, how large its weights would be, and what to type next. Exits 1
    for a network that cannot be quantized.
    """
    from intraq_deploy.pipeline.options import make_options

    options = make_options(
        model.options(),
        weight_bits=bits.weights,
        activation_bits=bits.activations,
        depthwise_bits=bits.depthwise_bits,
        scheme=scheme,
    )
    begin(progress, options)
    from intraq_deploy.pipeline.inspection import inspect_model
    from intraq_deploy.pipeline.report import Bits

    asked = Bits(weights=bits.weights, activations=bits.activations, depthwise=bits.depthwise_bits)
    inspection = inspect_model(options.model.load(), scheme, asked)
    code = 0 if inspection.rows else UnsupportedModelError.exit_code
    return Outcome(inspection.to_json, lambda: _show(inspection, options, listed=layers), code)


def _show(inspection: "Inspection", options: "QuantizeOptions", *, listed: bool) -> None:
    """Prints the answer, what it rests on, and the next command. listed: one row for each layer too."""
    for problem in inspection.problems:
        show(problem, "red")
    if inspection.rows:
        show(_answer(inspection))
        _show_floats(inspection)
    macs = "" if inspection.macs is None else f", {inspection.macs / 1e6:,.0f} million multiply-accumulates"
    show(
        f"{inspection.architecture}: {inspection.classes:,} classes, input "
        f"{'x'.join(map(str, inspection.input_shape))}, {inspection.parameters:,} parameters{macs}, "
        f"{inspection.batch_norms} batch norms."
    )
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (inspection.mean, inspection.std))
    show(f"Preprocessing: mean {mean}; std {std} ({inspection.preprocessing_source}).")
    if not inspection.rows:
        return
    sizes = ", ".join(f"{size / MIB:.2f} MiB at W{bits}" for bits, size in inspection.stored_bytes.items())
    show(f"Its layers take {sizes} ({_FLOAT_BYTES * inspection.parameters / MIB:.2f} in float32).")
    if listed:
        _show_layers(inspection)
    else:
        show("--layers lists every layer.")
    show(f"Next: {_next(inspection, options)}", wrap=False)


def _answer(inspection: "Inspection") -> str:
    weighted = [row for row in inspection.rows if row.weight]
    integers = sum(row.integer for row in weighted)
    floats = len(weighted) - integers
    data = "without any data" if inspection.data_free else "with images of yours (--calibration)"
    return (
        f"It can be quantized, {data}. At {inspection.bits}, scheme {inspection.scheme}, {integers} of its "
        f"{len(weighted)} layers with weights run on integers{f', {floats} in float' if floats else ''}."
    )


def _show_floats(inspection: "Inspection") -> None:
    """Prints what runs in float, and why the first of it does."""
    floats = [row for row in inspection.rows if not row.integer and row.operator != "Input"]
    if floats:
        names = ", ".join(row.name for row in floats[:_SHOWN])
        more = f" and {len(floats) - _SHOWN} more" if len(floats) > _SHOWN else ""
        show(f"In float: {names}{more}; {floats[0].name}: {floats[0].reason}.", "yellow", wrap=False)


def _show_layers(inspection: "Inspection") -> None:
    from rich.table import Column, Table

    headings = ("operator", "weight", "output", "runs on", "why")
    columns = (Column("layer", no_wrap=True), *(Column(heading, overflow="fold") for heading in headings))
    table = Table(*columns, title=f"{inspection.bits}, scheme {inspection.scheme}")
    for row in inspection.rows:
        place, style = ("integers", "") if row.integer else ("float", "yellow")
        table.add_row(row.name, row.operator, row.weight, row.output, place, row.reason, style=style)
    show(table)


def _next(inspection: "Inspection", options: "QuantizeOptions") -> str:
    """Returns the command that quantizes the network."""
    from intraq_deploy.pipeline.invocation import quantize_command

    return quantize_command(options, *([] if inspection.data_free else ["--calibration", "photos/"]))
