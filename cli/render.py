"""Reports as tables and sentences, on standard output."""

from collections import Counter
from collections.abc import Callable, Iterable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from intraq_deploy.cli.wording import advice_sentence, failure_sentence
from intraq_deploy.pipeline.bench import BenchReport
from intraq_deploy.pipeline.bundle import BundleReport
from intraq_deploy.pipeline.doctor import Doctor
from intraq_deploy.pipeline.inspection import Inspection
from intraq_deploy.pipeline.linting import LintReport
from intraq_deploy.pipeline.report import (
    AccountingRecord,
    CalibrationRecord,
    EngineRecord,
    MixedRecord,
    ParityRecord,
    RunReport,
)
from intraq_deploy.pipeline.sensitivity_report import LayerSensitivity, SensitivityReport
from intraq_deploy.pipeline.ship import ShipReport

_MIB = 1 << 20
_SHOWN_FAILURES, _SHOWN_LAYERS = 3, 8


def print_json(text: str) -> None:
    """Alone on standard output, untouched."""
    print(text)


def render_report(report: RunReport, directory: str) -> None:
    """What a finished run has to say."""
    console = Console()
    bits = report.label if report.mixed is None else f"{report.label} ({report.mixed.average_bits:.1f} average)"
    if report.mixed is not None:
        console.print(_mixed_sentence(report.mixed), highlight=False)
    if report.comparison:
        console.print(_comparison(report, bits))
    for target, parity in report.parity.items():
        console.print(_parity_sentence(target, parity), highlight=False)
    render_artifacts(report, directory)
    if report.advice:
        weights = report.bits.weights_label(report.mixed)
        console.print(advice_sentence(report.advice, report.label, weights), highlight=False)
    # In execution order: the first tensor that differs is the cause, those behind it follow.
    for failure in report.failures[:_SHOWN_FAILURES]:
        console.print(f"Gate failed: {failure_sentence(failure)}", style="red", highlight=False, markup=False)
    if len(report.failures) > _SHOWN_FAILURES:
        console.print(
            f"... and {len(report.failures) - _SHOWN_FAILURES} more in run.json.", style="red", highlight=False
        )


def render_bundle(report: BundleReport) -> None:
    """What was packed, and what to type on the device."""
    console = Console()
    console.print(
        f"{report.archive}: {report.bytes / _MIB:.2f} MiB, for {', '.join(report.targets)}. `check` compares "
        f"{report.integers:,} integers there.",
        highlight=False,
    )
    for target, reason in report.left_out.items():
        console.print(f"{target} is left out: {reason}", highlight=False, markup=False)
    console.print("On the device, in the unpacked folder: python3 run.py doctor, then check.", highlight=False)


def render_artifacts(report: RunReport, directory: str) -> None:
    """The files that were written, and what low bits buy in them."""
    console = Console()
    for target, artifact in report.artifacts.items():
        mib = {name.replace("_", " "): f"{size / _MIB:.2f}" for name, size in artifact.items.items()}
        items = ", ".join(f"{name} {size}" for name, size in mib.items() if float(size))
        size = f"{artifact.bytes / _MIB:.2f} MiB" + (f" ({items})" if items else "")
        beside = f"; beside it {' and '.join(artifact.companions)}" if artifact.companions else ""
        line = f"{target}: {directory}/{artifact.path}, {size}{beside}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(f"  {_accounting(report, artifact.accounting)}", highlight=False, markup=False, soft_wrap=True)


def _accounting(report: RunReport, accounting: AccountingRecord) -> str:
    low = min(report.bits.weights, report.bits.activations) < 8
    pace = ": values of fewer than 8 bits are no faster than 8" if low else ""
    times = f"{accounting.smaller:.1f} times smaller than" if accounting.smaller > 1 else "no smaller than"
    return (
        f"A weight takes {accounting.stored_bits:.1f} bits in it, and it is {times} the weights in float32; layers "
        f"compute in {accounting.computed_in}{pace}."
    )


def render_engines(report: RunReport, targets: Iterable[str], directory: str) -> None:
    """What the compiler made of the layers, and what was found where the engine could be run."""
    console = Console()
    for target in targets:
        engine = report.engines[target]
        kinds = Counter(engine.layers.values())
        found = ", ".join(f"{count} in {kind}" for kind, count in kinds.most_common())
        sentence = f"of {len(engine.layers)} convolutions and linear layers {found}."
        if not engine.layers:
            sentence = f"built for {engine.gpu}."
        console.print(f"{target}: {sentence}", highlight=False, markup=False)
        others = [f"{name} ({kind})" for name, kind in engine.layers.items() if kind != "INT8"]
        if others:
            more = f" and {len(others) - _SHOWN_LAYERS} more" if len(others) > _SHOWN_LAYERS else ""
            console.print(f"  Not INT8: {', '.join(others[:_SHOWN_LAYERS])}{more}.", highlight=False, markup=False)
        if min(report.bits.weights, report.bits.activations) < 8:
            console.print("  Values of fewer than 8 bits run in INT8 kernels: no faster than INT8.", highlight=False)
        console.print(
            f"  {directory}/{engine.path}, {engine.bytes / _MIB:.2f} MiB, by {engine.compiler} for compute capability "
            f"{engine.compute_capability} in {engine.seconds:.1f} s.{_run_of(engine)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        parity = report.parity.get(target)
        if parity is not None and parity.ran_by is not None:
            console.print(f"  {_parity_sentence(target, parity)}", highlight=False, markup=False)
        for failure in engine.failures[:_SHOWN_FAILURES]:
            console.print(f"  Gate failed: {failure_sentence(failure)}", style="red", highlight=False, markup=False)


def _run_of(engine: EngineRecord) -> str:
    if engine.milliseconds is None or engine.float16_milliseconds is None:
        return " It has not been timed." if engine.gpu else " It has not been run."
    return (
        f" On {engine.gpu}, batch 1: {engine.milliseconds:.3f} ms; the float network in float16 "
        f"{engine.float16_milliseconds:.3f} ms (medians of CUDA graphs, transfers apart)."
    )


def render_bench(report: BenchReport) -> None:
    """One line for each model."""
    console = Console()
    threads = f"{report.threads} thread" + "s" * (report.threads > 1)
    table = Table(title=escape(f"{report.architecture} {report.bits}, batch {report.batch}, {threads}"))
    for heading in ("", "MiB", "ms", "times as fast as float32"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in report.rows:
        value, low, high = row.speed
        ratio = "" if row.name == "float32" else f"{value:.2f} ({low:.2f} to {high:.2f})"
        table.add_row(row.name, f"{row.bytes / _MIB:.2f}", f"{row.milliseconds:.3f}", ratio)
    table.caption = (
        f"Medians of {report.rounds} rounds, 95 % intervals. ONNX Runtime {report.onnxruntime}, {report.machine}."
    )
    console.print(table)
    if report.elsewhere:
        console.print(f"On the device only: {', '.join(report.elsewhere)}.", highlight=False, markup=False)


def render_shipping(report: ShipReport) -> None:
    """One line for each host, what its check found, and what went wrong."""
    console = Console()
    table = Table()
    for heading in ("host", "device", "runtime", "ms, batch 1", "p99", "copied MiB"):
        table.add_column(heading, justify="left" if heading in ("host", "device", "runtime") else "right")
    for host in report.hosts:
        check, bench = host.answers.get("check"), host.answers.get("bench")
        one = None if bench is None else bench["batches"][0]
        # Some versions of trtexec say no percentiles.
        known = (None, None) if one is None else (one["median_ms"], one["p99_ms"])
        times = ("" if value is None else f"{value:.3f}" for value in known)
        runtime = "" if check is None else f"{check['runtime']} {check['version']}"
        table.add_row(
            escape(host.host), host.device or "", runtime, *times, f"{host.sent_bytes / _MIB:.2f}",
            style="red" if host.failure else "",
        )  # fmt: skip
    console.print(table)
    for host in report.hosts:
        check = host.answers.get("check")
        if check is not None:
            console.print(
                f"{host.host}: {check['differ']:,} of {check['integers']:,} integers differ from the reference "
                f"({check['tensors']} tensors, {check['images_with_codes']} images).",
                highlight=False,
                markup=False,
            )
        if host.accuracy is not None:
            found = f"{host.accuracy['top1']:.2f} % top-1 on {host.accuracy['images']:,.0f} labelled images"
            console.print(f"{host.host}: {found}.", highlight=False, markup=False)
        if host.failure is not None:
            console.print(host.failure, style="red", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{report.run}/device holds each host's full answers.", highlight=False, markup=False, soft_wrap=True)


def render_doctor(doctor: Doctor) -> None:
    """One line for each finding, its remedy below."""
    console = Console()
    width = max(len(finding.what) for finding in doctor.findings)
    for finding in doctor.findings:
        mark, style = ("ok", "") if finding.remedy is None else ("NO", "red") if finding.needed else ("--", "yellow")
        line = f"{mark}  {finding.what:{width}}  {finding.found}"
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
        if finding.remedy is not None:
            console.print(f"    {'':{width}}  {finding.remedy}", highlight=False, markup=False, soft_wrap=True)
    where = "this machine" if doctor.host is None else doctor.host
    missing = "nothing is missing that everything needs" if doctor.ready else "see the lines marked NO"
    console.print(f"{where}: {missing}; lines marked -- matter for some targets only.", highlight=False, markup=False)


def render_findings(report: LintReport) -> None:
    """One paragraph per rule, those that matter first, with the first layers."""
    console = Console()
    rules = {finding.rule: finding.refused for finding in report.findings}
    for rule in sorted(rules, key=lambda rule: not rules[rule]):
        broken = [finding for finding in report.findings if finding.rule == rule]
        kind, style = ("refused or wrong", "red") if rules[rule] else ("slower", "yellow")
        console.print(f"{rule} ({kind}; {broken[0].source})", style=style, markup=False, highlight=False)
        for finding in broken[:_SHOWN_FAILURES]:
            console.print(f"  {finding.what}.", markup=False, highlight=False, soft_wrap=True)
        if len(broken) > _SHOWN_FAILURES:
            console.print(f"  ... and {len(broken) - _SHOWN_FAILURES} more; --json has all.", highlight=False)
    console.print(
        f"{report.file} for {report.target}: {report.refused} findings that it refuses or computes wrongly, "
        f"{len(report.findings) - report.refused} that cost speed.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def render_fit(device: str, reports: list[LintReport]) -> None:
    """Whether a device can run a file, after what each of its targets says of it."""
    taken = [report.target for report in reports if not report.refused]
    refused = [report.target for report in reports if report.refused]
    sentence = f"{device} takes it as {' or '.join(taken)}" if taken else f"{device} cannot run it"
    if refused:
        sentence += f"{', not' if taken else ''} as {' or '.join(refused)}"
    console = Console()
    console.print(f"{sentence}.", style="" if taken else "red", highlight=False, markup=False, soft_wrap=True)


def _comparison(report: RunReport, bits: str) -> Table:
    accuracy = report.accuracy or {}
    title = f"{report.model.architecture}, {accuracy.get('images', 0):,} labelled images, ONNX Runtime"
    table = Table(title=escape(title))
    for heading in ("", "top-1 %", "top-5 %", "MiB", "ms (batch 1, 1 thread)"):
        table.add_column(heading, justify="left" if not heading else "right")
    weights = report.bits.weights_label(report.mixed)
    names = {"float32": "float32", "w8a8": "W8A8, ranges only", "a8": f"{weights}A8, ranges only"}
    names |= {"cuda-float32": "float32 on CUDA", "cuda-float16": "float16 on CUDA"}
    for row in report.comparison:
        own = f"{bits} {report.scheme}" + (f", {row.name}" if len(report.artifacts) > 1 else "")
        name = names.get(row.name, own)
        size = f"{row.bytes / _MIB:.2f}"
        time = "on the device" if row.milliseconds is None else f"{row.milliseconds:.3f}"
        table.add_row(
            name, f"{row.top1:.2f}", f"{row.top5:.2f}", size, time, style="bold" if row.name not in names else ""
        )
    table.caption = (
        f"In PyTorch: float {accuracy.get('float', 0):.2f}, fake-quant {accuracy.get('fake_quant', 0):.2f}, "
        f"integer reference {accuracy.get('program', 0):.2f}. Values of fewer than 8 bits run in INT8 kernels."
    )
    for note in dict.fromkeys(row.note for row in report.comparison if row.note is not None):
        table.caption += f" {note}."
    return table


def _mixed_sentence(mixed: MixedRecord) -> str:
    counts = Counter(mixed.layers.values())
    layers = ", ".join(f"{counts[bits]} at {bits} bits" for bits in sorted(counts))
    return (
        f"Weights of layers: {layers}; {mixed.average_bits:.2f} bits on average, {mixed.stored_bytes / _MIB:.3f} MiB. "
        f"Before fine-tuning, on {mixed.images} held synthetic images: top-1 agreement with float "
        f"{mixed.agreement:.1f} %, with all weights at {max(mixed.asked.widths)} bits {mixed.widest_agreement:.1f} %."
    )


def render_sensitivity(report: SensitivityReport, directory: str) -> None:
    """One row per layer, one column per width below 8, which is the reference."""
    console, reference = Console(), report.reference
    title = f"{report.architecture}: one layer's weights at fewer bits, everything else at 8 ({report.images} images)"
    console.print(title, highlight=False, markup=False, soft_wrap=True)
    increase, lost = "Increase of KL(float || quantized) in nats, by bits", "Points of top-1 agreement lost, by bits"
    console.print(_layers_table(report, increase, report.kl_increase, digits=4))
    console.print(_layers_table(report, lost, report.agreement_lost, digits=1))
    console.print(
        f"Everything at 8 bits: KL {reference.kl:.4f}, agreement {reference.agreement:.1f} %.\n"
        f"{directory}/sensitivity: sensitivity.png shows it; .json and .csv hold every figure.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _layers_table(
    report: SensitivityReport, title: str, figure: Callable[[LayerSensitivity, int], float], digits: int
) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold")
    table.add_column("weights", justify="right")
    widths = [bits for bits in report.widths if bits != report.reference_bits]
    for bits in widths:
        table.add_column(str(bits), justify="right", no_wrap=True)
    for layer in report.layers:
        cells = [f"{figure(layer, bits):.{digits}f}" for bits in widths]
        table.add_row(escape(layer.name), f"{layer.weights:,}", *cells)
    return table


def _parity_sentence(target: str, parity: ParityRecord) -> str:
    if parity.rehearsed:
        return (
            f"{target}: rehearsed in ONNX Runtime, operator by operator in float32, {parity.integers_mismatched:,} of "
            f"{parity.integers_compared:,} integers differ from the reference ({parity.tensors} tensors, "
            f"{parity.images} images); top-1 agreement {parity.top1_agreement:.2f} %. What its engine computes is "
            "checked on the device."
        )
    if parity.ran_by is not None:
        return (
            f"{target}: run by {parity.ran_by}, {parity.integers_mismatched:,} of {parity.integers_compared:,} "
            f"integers differ from the reference, {parity.exact_mismatched:,} of them more than rounding in another "
            f"order explains ({parity.near_ties:,} are so near a tie that it could; {parity.tensors} tensors, "
            f"{parity.images} images); top-1 agreement {parity.top1_agreement:.2f} %."
        )
    kernels = ", ".join(f"{count} {name}" for name, count in parity.integer_kernels.items()) or "none"
    floats = ", ".join(f"{count} {name}" for name, count in parity.float_kernels.items()) or "none"
    sentence = (
        f"{target}: {parity.integers_mismatched:,} of {parity.integers_compared:,} integers differ from the reference "
        f"({parity.tensors} tensors, {parity.images} images); top-1 agreement {parity.top1_agreement:.2f} %. "
        f"Integer kernels: {kernels}; float: {floats}."
    )
    if parity.toleranced:
        sentence += f" {len(parity.toleranced)} tensors are computed in float and may differ (run.json says why)."
    return sentence


def render_images(report: RunReport, directory: str) -> None:
    """What the images have to say."""
    images = report.images
    if isinstance(images, CalibrationRecord):
        Console().print(
            f"{images.count} of {images.found:,} images in {images.calibration} stand in for synthetic ones "
            f"({directory}/calibration/sheet.png shows them): the network sees {images.classes} of its "
            f"{report.model.classes} classes in them, mean confidence {images.confidence:.2f}.",
            highlight=False,
            markup=False,
        )
        return
    spread = (
        ""
        if images.intra_class_distance is None
        else f", intra-class cosine distance {images.intra_class_distance:.2f}"
    )
    Console().print(
        f"{images.count} images in {directory}/synthesis (sheet.png shows them): BN distance {images.bn_distance:.2f}, "
        f"mean confidence {images.confidence:.2f}, teacher agrees with {images.agreement:.1f} % of the labels{spread}.",
        highlight=False,
        markup=False,
    )


def render_inspection(inspection: Inspection) -> None:
    """A network, before anything is done to it."""
    console = Console()
    console.print(
        f"{inspection.architecture}: {inspection.classes} classes, input {'x'.join(map(str, inspection.input_shape))}, "
        f"{inspection.parameters:,} parameters, {inspection.batch_norms} batch norms.\n"
        f"Preprocessing: mean {list(inspection.mean)}, std {list(inspection.std)} ({inspection.preprocessing_source}).",
        highlight=False,
        markup=False,
    )
    for problem in inspection.problems:
        console.print(problem, style="red", highlight=False, markup=False)
    if not inspection.rows:
        return
    table = Table(title=f"{inspection.bits}, scheme {inspection.scheme}")
    for heading in ("layer", "operator", "weight", "output", "runs on", "why"):
        table.add_column(heading, overflow="fold")
    for row in inspection.rows:
        table.add_row(
            row.name, row.operator, row.weight, row.output, "integers" if row.integer else "float", row.reason,
            style="" if row.integer else "yellow",
        )  # fmt: skip
    console.print(table)
