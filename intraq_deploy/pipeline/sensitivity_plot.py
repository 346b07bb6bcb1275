"""Sensitivity for people: one point per layer and width, over the layers' share of all weights."""

from io import BytesIO

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from intraq_deploy.pipeline.sensitivity_report import SensitivityReport

_INCHES_PER_LAYER, _LEAST_INCHES, _MOST_INCHES = 0.22, 8.0, 60.0
_LEAST_KL = 1e-7
"""Nothing is drawn below it: the axis is logarithmic."""


def sensitivity_plot(table: SensitivityReport) -> bytes:
    """Returns a PNG of the table, as wide as the network is deep."""
    names = [layer.name for layer in table.layers]
    width = min(max(_LEAST_INCHES, 2 + _INCHES_PER_LAYER * len(names)), _MOST_INCHES)
    figure = Figure(figsize=(width, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    losses, shares = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    colours = colormaps["viridis_r"].resampled(max(len(table.widths), 2))
    for index, bits in enumerate(table.widths):
        kl = [max(layer.loss[bits].kl, _LEAST_KL) for layer in table.layers]
        losses.plot(names, kl, "o-", color=colours(index), linewidth=0.6, markersize=4, label=f"{bits} bits")
    losses.axhline(
        max(table.reference.kl, _LEAST_KL), color="grey", linestyle="--", linewidth=1, label="everything at 8 bits"
    )
    losses.set_yscale("log")
    losses.set_ylabel("KL(float || quantized), nats")
    losses.grid(axis="both", linewidth=0.3)
    losses.legend(ncols=4, fontsize=8)
    losses.set_title(
        f"{table.architecture}: one layer's weights at fewer bits, everything else at 8\n"
        f"(scheme {table.scheme}, {table.images} synthetic images)",
        fontsize=10,
    )
    weights = sum(layer.weights for layer in table.layers)
    shares.bar(names, [100 * layer.weights / weights for layer in table.layers], color="grey")
    shares.set_ylabel("% of weights")
    shares.set_xlim(-0.6, len(names) - 0.4)
    shares.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
