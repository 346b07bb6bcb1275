"""Pages from runs: HTML that needs nothing beside it, and Markdown for a model card."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from intraq_deploy.errors import UsageError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline.comparison import A8, CUDA_FLOAT16, CUDA_FLOAT32, FLOAT32, W8A8
from intraq_deploy.pipeline.page import texts
from intraq_deploy.pipeline.page.charts import Series, chart
from intraq_deploy.pipeline.page.facts import FLOAT, TRAINED, Curve, RunFacts, read_facts
from intraq_deploy.pipeline.sentences import (
    accounting_sentence,
    advice_sentence,
    failure_sentence,
    mixed_sentence,
    parity_sentence,
    warning_sentence,
)
from intraq_deploy.version import __version__
from intraq_deploy.wording import MIB, duration

PAGE, CARD = "report.html", "report.md"
_PERCENT = (0.0, 100.0)


def write_page(directory: Path, name: str | None = None) -> None:
    """Writes the page of a run into its directory. name: the directory to say in place of `directory`."""
    write_atomically(directory / PAGE, page([read_facts(directory, name)]))


def report_runs(paths: Sequence[Path], out: Path | None, *, markdown: bool = False) -> Path:
    """Writes the page of runs, or one run's card, and returns its path. Leaves the runs as they are.

    out: the file; None: in the directory of the run, or of several in the current one. Raises RunError for what is no
    run, UsageError where the file cannot be written.
    """
    runs = [read_facts(path) for path in paths]
    name = CARD if markdown else PAGE
    path = out or (paths[0] / name if len(paths) == 1 else Path(name))
    text = card(runs[0]) if markdown else page(runs)
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
    charts = [chart("Loss of fine-tuning", ("images", "loss"), [Series("", curve.points)]) for curve in last]
    if blocks:
        gained = [Series("before", _numbered(blocks, 0)), Series("after", _numbered(blocks, -1), "b")]
        charts.insert(0, chart("Error of each block, before and after its reconstruction", ("block", "error"), gained))
    return charts


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
    for name, label, style in ((FLOAT, "float", "a"), (run.target, "deployed", "b")):
        record = run.report.reliability[name or FLOAT]
        bins = zip(record.images, record.confidence, record.right, strict=True)
        points = [(confidence, right) for images, confidence, right in bins if images]
        series.append(Series(label, points, style))
    title = "How often answers are right, by how sure the network is of them"
    return chart(title, ("confidence %", "right %"), series, bounds=_PERCENT, diagonal=True)


def _classes(run: RunFacts) -> Markup:
    points = [(each.float_right, each.right) for each in run.classes]
    title = "Accuracy of each class, float and deployed"
    return chart(title, ("float %", "deployed %"), [Series("", points, line=False)], bounds=_PERCENT, diagonal=True)


def _row_name(run: RunFacts, name: str) -> str:
    """Returns a person's words for a row of the table of what is deployed."""
    report = run.report
    names = {
        FLOAT32: "float32",
        W8A8: "W8A8, ranges only",
        A8: f"{report.bits.weights_label(report.mixed)}A8, ranges only",
        CUDA_FLOAT32: "float32 on CUDA",
        CUDA_FLOAT16: "float16 on CUDA",
    }
    return names.get(name, f"{report.label}, {name}")


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
        "row_name": _row_name,
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
    environment.filters |= {"mib": lambda size: f"{size / MIB:.2f}", "duration": duration}
    return environment
