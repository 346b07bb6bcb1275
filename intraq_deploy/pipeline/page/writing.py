"""Pages from runs: HTML that needs nothing beside it, and Markdown for a model card."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from intraq_deploy.errors import UsageError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline.page import texts
from intraq_deploy.pipeline.page.charts import Series, chart
from intraq_deploy.pipeline.page.facts import FLOAT, TRAINED, Curve, RunFacts, read_facts
from intraq_deploy.pipeline.sentences import (
    accounting_sentence,
    advice_sentence,
    failure_sentence,
    mixed_sentence,
    parity_sentence,
    row_name,
    warning_sentence,
)
from intraq_deploy.version import __version__
from intraq_deploy.wording import MIB, duration

PAGE, CARD = "report.html", "report.md"
_PERCENT = (0.0, 100.0)


def write_page(directory: Path) -> None:
    """Writes the page of a run into its directory."""
    write_atomically(directory / PAGE, page([read_facts(directory)]))


def report(*runs: str | Path, out: str | Path | None = None, markdown: bool = False) -> Path:
    """Writes what is known of a run as one HTML file, or of several side by side, and returns its path.

    runs: their directories, which are left as they are. out: the file. Default: report.html, or report.md, in the run
    directory; for several runs in the current one. markdown: a model card in place of a page, of one run.

    Raises RunError for what is no finished run, UsageError for no run, several runs on a card, and a file that cannot
    be written.
    """
    if not runs or (markdown and len(runs) > 1):
        raise UsageError(f"{len(runs)} runs are given: {'a card is of one' if runs else 'give one at least'}.")
    facts = [read_facts(Path(run)) for run in runs]
    name = CARD if markdown else PAGE
    path = Path(out or (Path(runs[0]) / name if len(runs) == 1 else name))
    text = card(facts[0]) if markdown else page(facts)
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): give another file with --out.") from error
    return path


def page(runs: Sequence[RunFacts]) -> str:
    """Returns the page of one run, or of several side by side, as HTML."""
    rows = texts.compared(runs) if len(runs) > 1 else []
    return _environment().get_template("page.html.j2").render(runs=runs, rows=rows)


def card(run: RunFacts) -> str:
    """Returns a run's model card, as Markdown."""
    return _environment().get_template("card.md.j2").render(run=run)


def _losses(stage: str, curves: Sequence[Curve]) -> list[Markup]:
    """Returns the charts of a stage's losses: all batches of images in one, as their losses compare; else one each."""
    if stage == "synthesis":
        series = [Series("", [(done - curve.points[0][0], loss) for done, loss in curve.points]) for curve in curves]
        plural = "es" if len(series) > 1 else ""
        return [chart(f"Loss of {len(series)} batch{plural} of images", ("image-iterations", "loss"), series)]
    last = [curve for curve in curves if not curve.part]
    blocks = [curve for curve in curves if curve.part]
    charts = [
        chart(
            "Loss of fine-tuning: every batch is another mixture of images",
            ("images", "loss"),
            [Series("each step", curve.points, "plain"), Series("smoothed", _smoothed(curve.points))],
        )
        for curve in last
    ]
    if blocks:
        gained = [Series("first step", _numbered(blocks, 0)), Series("last step", _numbered(blocks, -1), "b")]
        charts.insert(
            0,
            chart(
                "Error of each block, at the first and the last step of its reconstruction", ("block", "error"), gained
            ),
        )
    return charts


def _smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Returns the points with the mean of a tenth of them, around each, in place of their values."""
    reach = max(1, len(points) // 20)
    values = [value for _, value in points]
    around = [values[max(0, index - reach) : index + reach + 1] for index in range(len(values))]
    return [(done, sum(near) / len(near)) for (done, _), near in zip(points, around, strict=True)]


def _numbered(blocks: Sequence[Curve], index: int) -> list[tuple[int, float]]:
    return [(number, curve.points[index][1]) for number, curve in enumerate(blocks, 1)]


def _signal(run: RunFacts) -> Markup:
    points = [
        (index, layer.signal_to_noise)
        for index, layer in enumerate(run.report.layers)
        if layer.signal_to_noise is not None
    ]
    return chart(
        "Signal to quantization noise, from the first layer to the last", ("layer", "dB"), [Series("", points)]
    )


def _reliability(run: RunFacts) -> Markup:
    series = []
    for name, label, style in ((FLOAT, "float", "a"), (run.report.target, "deployed", "b")):
        record = run.report.reliability[name or FLOAT]
        bins = zip(record.images, record.confidence, record.right, strict=True)
        points = [(confidence, right) for images, confidence, right in bins if images]
        series.append(Series(label, points, style))
    title = "How often answers are right, by how sure the network is of them"
    return chart(title, ("confidence %", "right %"), series, bounds=_PERCENT, diagonal=True)


def _classes(run: RunFacts) -> Markup:
    points = [(each.float_right, each.right) for each in run.classes]
    title = "Accuracy of each class, float and deployed"
    lowest = min(min(point) for point in points)
    bounds = (min(90.0, 10 * math.floor(lowest / 10)), 100.0)
    return chart(title, ("float %", "deployed %"), [Series("", points, line=False)], bounds=bounds, diagonal=True)


@cache
def _environment() -> Environment:
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(["html.j2"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    helpers: dict[str, Any] = {
        "style": Markup((folder / "style.css").read_text()),  # noqa: S704  our own file
        "version": __version__,
        "FLOAT": FLOAT,
        "TRAINED": TRAINED,
        "loss_charts": _losses,
        "signal_chart": _signal,
        "reliability_chart": _reliability,
        "classes_chart": _classes,
        "row_name": row_name,
        "failure_sentence": failure_sentence,
        "warning_sentence": warning_sentence,
        "parity_sentence": parity_sentence,
        "accounting_sentence": accounting_sentence,
        "advice_sentence": advice_sentence,
        "mixed_sentence": mixed_sentence,
        "verdict": texts.verdict,
        "headline": texts.headline,
        "images_sentence": texts.images_sentence,
    }
    environment.globals |= helpers
    environment.filters |= {
        "mib": lambda size: f"{size / MIB:.2f}",
        "duration": duration,
        "cell": lambda value: str(value).replace("|", "\\|"),
    }
    return environment
