"""The sentences and rows that only pages have."""

from collections.abc import Sequence

from intraq_deploy.pipeline.page.facts import FLOAT, TRAINED, RunFacts
from intraq_deploy.pipeline.report import CalibrationRecord, RunReport
from intraq_deploy.wording import MIB, duration

_VERDICTS = {
    "passed": "Passed: what is shipped is what was trained",
    "failed": "Failed: what would be shipped is not what was trained",
    "quantized": "Quantized, and not checked",
    "synthesized": "Images only: nothing is quantized yet",
}


def verdict(run: RunFacts) -> str:
    """Returns the verdict on a run, in a few words."""
    return _VERDICTS[run.report.status]


def headline(run: RunFacts) -> str:
    """Returns the bits and the network: "W4A4 of torchvision:resnet18"."""
    report = run.report
    return (
        report.model.architecture
        if report.status == "synthesized"
        else f"{report.label} of {report.model.architecture}"
    )


def images_sentence(run: RunFacts) -> str:
    """Returns what the images are, and where they come from."""
    images = run.report.images
    if isinstance(images, CalibrationRecord):
        return (
            f"{images.count:,} of {images.found:,} images in {images.calibration} stand in for synthetic ones. No "
            f"label was read: the network sees {images.classes:,} of its {run.report.model.classes:,} classes in them."
        )
    used = " The network was quantized with them, and integers are compared on them." if run.report.parity else ""
    return (
        f"{images.count:,} images, made in {images.iterations:,} iterations each from the network alone: from the "
        "statistics that its batch norms keep of its training data, and from the classes that it knows. No photograph "
        f"was used, and none is in them.{used}"
    )


def compared(runs: Sequence[RunFacts]) -> list[tuple[str, list[str]]]:
    """Returns the rows of the table that has runs side by side: a heading, and a cell for each run. Rows in which no
    run has anything are left out."""
    rows: list[tuple[str, list[str]]] = [
        ("verdict", [run.report.status for run in runs]),
        ("network", [run.report.model.architecture for run in runs]),
        ("bits", ["" if run.report.status == "synthesized" else run.report.label for run in runs]),
        ("top-1 %, float", [_accuracy(run, FLOAT) for run in runs]),
        ("top-1 %, as trained", [_accuracy(run, TRAINED) for run in runs]),
        ("top-1 %, deployed", [_accuracy(run, run.report.target) for run in runs]),
        ("answers as float, on the run's images, %", [_agreement(run) for run in runs]),
        ("integers that differ", [_differ(run.report) for run in runs]),
        ("file, MiB", [_size(run) for run in runs]),
        ("ms (batch 1, 1 thread)", [_milliseconds(run) for run in runs]),
        ("expected calibration error %, deployed", [_calibration(run) for run in runs]),
        ("least signal to noise, dB", ["" if run.least_signal is None else f"{run.least_signal:.1f}" for run in runs]),
        ("nodes in float", [str(len(run.floats)) if run.report.layers else "" for run in runs]),
        ("images", [f"{run.report.images.count:,}" for run in runs]),
        ("BN distance of the images", [_distance(run) for run in runs]),
        ("recipe", [run.report.preset for run in runs]),
        ("fine-tuning steps", [f"{run.report.steps:,}" for run in runs]),
        ("made for", [", ".join(run.report.made_for) for run in runs]),
        ("seed", [str(run.report.seed) for run in runs]),
        ("time", [duration(run.seconds) for run in runs]),
        ("machine", [run.report.machine for run in runs]),
    ]
    return [(heading, cells) for heading, cells in rows if any(cells)]


def _accuracy(run: RunFacts, name: str | None) -> str:
    accuracy = run.report.accuracy or {}
    return f"{accuracy[name]:.2f}" if name in accuracy else ""


def _differ(report: RunReport) -> str:
    return f"{report.mismatched:,} of {report.compared:,}" if report.compared else ""


def _agreement(run: RunFacts) -> str:
    parity = run.report.parity.get(run.report.target or "")
    return "" if parity is None or parity.float_agreement is None else f"{parity.float_agreement:.2f}"


def _size(run: RunFacts) -> str:
    artifact = run.report.artifacts.get(run.report.target or "")
    return "" if artifact is None else f"{artifact.bytes / MIB:.2f}"


def _milliseconds(run: RunFacts) -> str:
    times = [row.milliseconds for row in run.report.comparison if row.name == run.report.target and row.milliseconds]
    return f"{times[0]:.3f}" if times else ""


def _calibration(run: RunFacts) -> str:
    record = run.report.reliability.get(run.report.target or "")
    return "" if record is None else f"{record.error:.2f}"


def _distance(run: RunFacts) -> str:
    images = run.report.images
    return "" if isinstance(images, CalibrationRecord) else f"{images.bn_distance:.2f}"
