"""The parts of a run's report that several commands print: images, comparison with the reference, files."""

import shlex
from typing import TYPE_CHECKING

from intraq_deploy.cli.console import show
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.wording import MIB, duration

if TYPE_CHECKING:
    from rich.table import Table

    from intraq_deploy.pipeline.report import RunReport

SHOWN_FAILURES = 3
"""How many failures of one kind are printed; --json and run.json have all."""


def show_report(report: "RunReport", directory: str) -> None:
    """Prints what a finished run computes, how well, and the files that it wrote."""
    from intraq_deploy.pipeline.sentences import advice_sentence, failure_sentence, mixed_sentence, parity_sentence

    if report.mixed is not None:
        show(mixed_sentence(report.mixed))
    if report.comparison:
        show(_comparison(report))
    for target, parity in report.parity.items():
        show(parity_sentence(target, parity))
    show_artifacts(report, directory)
    if report.advice is not None:
        show(advice_sentence(report.advice, report.label, report.bits.weights_label(report.mixed)))
    # In execution order: the first tensor that differs is the cause, those behind it follow.
    for failure in report.failures[:SHOWN_FAILURES]:
        show(f"Gate failed: {failure_sentence(failure)}", "red")
    if len(report.failures) > SHOWN_FAILURES:
        show(f"... and {len(report.failures) - SHOWN_FAILURES} more in run.json.", "red")


def show_closing(report: "RunReport", directory: str, seconds: float) -> None:
    """Prints the verdict, how long it took, where the results are, and what to type next. seconds: of the whole
    command."""
    show("")
    before = sum(report.seconds.values()) - seconds
    kept = f" (and {duration(before)} before, whose results were kept)" if before >= 1 else ""
    if report.status == "failed":
        show(f"FAILED after {duration(seconds)}{kept}: what would be shipped is not what was trained.", "bold red")
        show(f"{directory}/run.json has every figure.", wrap=False)
        return
    show(
        f"PASSED after {duration(seconds)}{kept}: {report.label}{_top1(report)}; {report.mismatched:,} of "
        f"{report.compared:,} integers differ.",
        "bold green",
    )
    show(f"Results are in {directory}; run.json has every figure.", wrap=False)
    show("Next:")
    for command in _next_commands(report, directory):
        show(f"  {command}", wrap=False)


def _top1(report: "RunReport") -> str:
    """Returns the accuracy of the first target that has one, and the float network's, after a comma; else nothing."""
    if report.accuracy is None:
        return ""
    assert report.target is not None
    return f", top-1 {report.accuracy[report.target]:.2f} % (float {report.accuracy['float']:.2f})"


def _next_commands(report: "RunReport", directory: str) -> list[str]:
    """Returns three commands: accuracy, or speed where it was measured; what goes onto a device, and its way there."""
    run = shlex.quote(directory)
    first = f"validate {run} --eval photos/" if report.accuracy is None else f"bench {run}"
    device = "jetson-orin-nano" if "tensorrt-int8" in report.made_for else "arm64-cpu"
    commands = (first, f"bundle {run} --target {device}", f"ship {run} --to user@device")
    return [f"intraq-deploy {each}" for each in commands]


def say_warnings(report: "RunReport", progress: Progress) -> None:
    """Tells the watcher what a person should know although the gate passes."""
    from intraq_deploy.pipeline.sentences import warning_sentence

    for warning in report.warnings:
        progress.warn(warning_sentence(warning))


def show_images(report: "RunReport", directory: str) -> None:
    """Prints how many images a run has, and how good they are."""
    from intraq_deploy.pipeline.report import CalibrationRecord

    images = report.images
    if isinstance(images, CalibrationRecord):
        show(
            f"{images.count} of {images.found:,} images in {images.calibration} stand in for synthetic ones "
            f"({directory}/calibration/sheet.png shows them): the network sees {images.classes} of its "
            f"{report.model.classes} classes in them, mean confidence {images.confidence:.2f}."
        )
        return
    distance = images.intra_class_distance
    spread = "" if distance is None else f", intra-class cosine distance {distance:.2f}"
    show(
        f"{images.count} images in {directory}/synthesis (sheet.png shows them): BN distance {images.bn_distance:.2f}, "
        f"mean confidence {images.confidence:.2f}, teacher agrees with {images.agreement:.1f} % of the labels{spread}."
    )


def show_artifacts(report: "RunReport", directory: str) -> None:
    """Prints the files of each target, and what low bits buy in them."""
    from intraq_deploy.pipeline.sentences import accounting_sentence

    for target, artifact in report.artifacts.items():
        mib = {name.replace("_", " "): f"{size / MIB:.2f}" for name, size in artifact.items.items()}
        items = ", ".join(f"{name} {size}" for name, size in mib.items() if float(size))
        size = f"{artifact.bytes / MIB:.2f} MiB" + (f" ({items})" if items else "")
        beside = f"; beside it {' and '.join(artifact.companions)}" if artifact.companions else ""
        show(f"{target}: {directory}/{artifact.path}, {size}{beside}", wrap=False)
        show(f"  {accounting_sentence(report, artifact.accounting)}", wrap=False)


def _comparison(report: "RunReport") -> "Table":
    from rich.table import Column, Table

    from intraq_deploy.pipeline.sentences import row_name

    accuracy = report.accuracy or {}
    measured = ("top-1 %", "top-5 %") if accuracy else ()
    headings = (*measured, "MiB", "ms (batch 1, 1 thread)")
    images = f", {accuracy['images']:,} labelled images" if accuracy else ""
    title = f"{report.model.architecture}{images}, ONNX Runtime"
    table = Table("", *(Column(heading, justify="right") for heading in headings), title=title)
    for row in report.comparison:
        time = "on the device" if row.milliseconds is None else f"{row.milliseconds:.3f}"
        right = [f"{value:.2f}" for value in (row.top1, row.top5) if value is not None]
        cells = (row_name(report, row.name), *right, f"{row.bytes / MIB:.2f}", time)
        table.add_row(*cells, style="bold" if row.name in report.artifacts else "")
    table.caption = "Values of fewer than 8 bits run in INT8 kernels."
    if accuracy:
        table.caption = (
            f"In PyTorch: float {accuracy['float']:.2f}, fake-quant {accuracy['fake_quant']:.2f}, integer reference "
            f"{accuracy['program']:.2f}. {table.caption}"
        )
    for note in dict.fromkeys(row.note for row in report.comparison if row.note is not None):
        table.caption += f" {note}."
    return table
