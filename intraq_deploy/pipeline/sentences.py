"""The sentences about a run's findings, for the terminal and for pages."""

from intraq_deploy.pipeline import findings
from intraq_deploy.pipeline.advice import Advice, as_fast
from intraq_deploy.pipeline.comparison import A8, CUDA_FLOAT16, CUDA_FLOAT32, FLOAT32, W8A8
from intraq_deploy.pipeline.report import AccountingRecord, MixedRecord, ParityRecord, RunReport
from intraq_deploy.wording import MIB

_SHOWN = 4


def failure_sentence(failure: findings.Failure) -> str:
    """Returns the sentence that says why a target failed its gate."""
    target = failure.target
    match failure:
        case findings.TensorDiffers():
            allowed = "none may" if failure.allowed_share is None else f"{failure.allowed_share:.1%} may, by 1"
            explained = failure.mismatched - failure.beyond_rounding
            if explained:
                allowed = f"{explained:,} of them by rounding in another order, which may"
            return (
                f"{target}: {failure.mismatched:,} of {failure.compared:,} integers of {failure.tensor} differ by up "
                f"to {failure.largest_difference} ({allowed})."
            )
        case findings.LogitsDiffer():
            allowed = "they may not" if failure.allowed is None else f"{failure.allowed:.0e} is allowed"
            return (
                f"{target}: its logits differ from the reference's by {failure.difference:.1e} of the largest "
                f"({allowed})."
            )
        case findings.InstrumentsDisturb():
            return f"{target}: looking at its integers changes its logits; the comparison says nothing about it."
        case findings.LayersNotInt8():
            listed = ", ".join(f"{name} ({kind})" for name, kind in list(failure.layers.items())[:_SHOWN])
            return (
                f"{target}: {len(failure.layers)} of {failure.of} layers do not multiply INT8 in the engine: {listed}."
            )
        case findings.AccuracyLost():
            return (
                f"{target}: its top-1 is {failure.top1:.2f}, below the fake-quant module's "
                f"{failure.fake_quant_top1:.2f}: of {failure.images:,} answers {failure.became_wrong:,} became wrong "
                f"and {failure.became_right:,} right, and {failure.allowed:.0f} more wrong than right are allowed."
            )


def warning_sentence(warning: findings.GateWarning) -> str:
    """Returns the sentence that a person should read although the gate passes."""
    target = warning.target
    match warning:
        case findings.NotOnProvider():
            return f"{target} was not run on its provider. {warning.reason}"
        case findings.FloatKernels():
            listed = ", ".join(f"{count} {operator}" for operator, count in warning.kernels.items())
            return f"{target}: {listed} run in float; `intraq-deploy inspect` says why."
        case findings.LayersLeftInFloat():
            return (
                f"{target}: {warning.layers} layers that could run on integers run in float: the results are right, "
                "and slower than they could be."
            )
        case findings.UnderusedTensors():
            listed = ", ".join(warning.tensors[:_SHOWN])
            return f"{target}: {len(warning.tensors)} tensors use less than half of their codes ({listed})."
        case findings.LargerThanAsked():
            return (
                f"{target}: its file has {warning.bytes / MIB:.2f} MiB; --max-size {warning.max_size:g} counts codes, "
                f"scales and biases ({warning.stored_bytes / MIB:.2f} MiB), and the file also holds a graph and may "
                "store codes wider."
            )
        case findings.SlowerThanFloat():
            return (
                f"{target}: an image takes {warning.milliseconds:.2f} ms here, and in float32 "
                f"{warning.float_milliseconds:.2f} ms: on this CPU the quantized file is smaller, not faster."
            )
        case findings.NumberedFolders():
            return (
                f"The class folders are numbers, and were taken as class indices: float top-1 is {warning.top1:.2f} %. "
                f"Sorted as text (0, 1, 10, ...), as torchvision's ImageFolder takes them, it is "
                f"{warning.sorted_top1:.2f} %: for that order give --classes, a file with one folder name per line, in "
                "that order."
            )
        case findings.EmptyClassFolders():
            listed = ", ".join(warning.folders[:_SHOWN])
            verb = "folder has" if len(warning.folders) == 1 else "folders have"
            return f"{len(warning.folders)} class {verb} no image of a known format ({listed}), and did not count."
        case findings.FloatInaccurate():
            return (
                f"The float network itself is right on {warning.top1:.2f} % of the labelled images, and on average "
                f"{warning.confidence:.0f} % sure (one answer for all would get {warning.chance:.1f} %): probably the "
                "order of the classes (--classes) is not that of its outputs, or --mean, --std, --input-size are not "
                "those of its training."
            )


def advice_sentence(advice: Advice, bits: str, weights: str) -> str:
    """Returns which bits to ship, and what fewer than 8 bits of activations buy. bits: "W4A4"; weights: "W4"."""
    sentence = _beside_w8a8(advice, bits)
    if advice.a8_lost is None:
        return sentence
    return (
        f"{sentence} In INT8 kernels, activations of fewer than 8 bits make it neither smaller nor faster: {weights}A8 "
        "(--activation-bits 8) usually loses less."
    )


def _change(lost: float, advice: Advice) -> str:
    """Returns what becomes of an accuracy: "loses 1.3 points"."""
    if abs(lost) < advice.least_points:
        return "loses nothing"
    return f"{'loses' if lost > 0 else 'gains'} {abs(lost):.1f} points"


def _beside_w8a8(advice: Advice, bits: str) -> str:
    own, other = f"{bits} {_change(advice.lost, advice)}", f"W8A8 {_change(advice.w8a8_lost, advice)}"
    if advice.images:
        own = f"As far as {advice.images:,} images tell, {own}"
    speed, float_speed = advice.speed or 1.0, advice.float_speed or 1.0
    pace = "as fast" if as_fast(speed) else f"{1 / speed:.1f}x as fast"
    size = f"{bits}'s file has {advice.size:.2f} times the size of W8A8's"
    match advice.verdict:
        case "only-w8a8":
            return f"{own} against float32."
        case "timed-apart":
            return (
                f"{own}, {other}. {advice.target} was timed on the GPU and W8A8 on the CPU, so their times do not "
                "compare. Both would run in the same INT8 kernels."
            )
        case "not-timed":
            return f"{own}, {other}. How fast they are is measured on the device."
        case "float-is-fastest":
            return (
                f"float32 is {float_speed:.1f}x as fast here as {bits} or W8A8: quantize this network for size, not "
                f"for speed. {own}, {other}."
            )
        case "low-bits-are-faster":
            return f"{bits} is {speed:.1f}x as fast as W8A8. {own}, {other}."
        case "w8a8":
            return f"{own}, {other} and is {pace}: ship W8A8, unless size counts ({size})."
        case "equal":
            return f"{own}, {other}, and they are equally fast here: ship {bits} ({size})."
        case "w8a8-is-faster":
            return f"{own}, {other} and is {pace}: ship W8A8 for speed, {bits} for size ({size})."


def row_name(report: RunReport, name: str) -> str:
    """Returns a person's words for a row of the table of what is deployed."""
    names = {
        FLOAT32: "float32",
        W8A8: "W8A8, ranges only",
        A8: f"{report.bits.weights_label(report.mixed)}A8, ranges only",
        CUDA_FLOAT32: "float32 on CUDA",
        CUDA_FLOAT16: "float16 on CUDA",
    }
    bits = report.label if report.mixed is None else f"{report.label} ({report.mixed.average_bits:.1f} average)"
    own = f"{bits} {report.scheme}" + (f", {name}" if len(report.artifacts) > 1 else "")
    return names.get(name, own)


def parity_sentence(target: str, parity: ParityRecord) -> str:
    """Returns how a target's integers compare with the reference, and what computed them."""
    if parity.rehearsed:
        return (
            f"{target}: rehearsed in ONNX Runtime, operator by operator in float32, {parity.integers_mismatched:,} of "
            f"{parity.integers_compared:,} integers differ from the reference ({parity.tensors} tensors, "
            f"{parity.images} images); top-1 agreement {parity.top1_agreement:.2f} %.{_why_allowed(parity)} What its "
            "engine computes is checked on the device."
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
        f"({parity.tensors} tensors, {parity.images} images); top-1 agreement {parity.top1_agreement:.2f} %."
        f"{_why_allowed(parity)} Integer kernels: {kernels}; float: {floats}."
    )
    if parity.toleranced:
        sentence += f" {len(parity.toleranced)} tensors are computed in float and may differ (run.json says why)."
    return sentence


def _why_allowed(parity: ParityRecord) -> str:
    """Returns why integers differ that may, after a space; empty where none do."""
    within = sum(tensor.mismatched for tensor in parity.toleranced)
    ties = parity.integers_mismatched - parity.exact_mismatched - within
    reasons = [
        f"{count:,} {reason}"
        for count, reason in (
            (ties, "near ties, which another order of float32 arithmetic rounds otherwise"),
            (within, "in tensors that are computed in float"),
        )
        if count
    ]
    return f" Allowed: {', and '.join(reasons)}." if reasons else ""


def accounting_sentence(report: RunReport, accounting: AccountingRecord) -> str:
    """Returns how much smaller a target's file is, and in what it computes."""
    low = min(report.bits.weights, report.bits.activations) < 8
    pace = ": values of fewer than 8 bits are no faster than 8" if low else ""
    times = f"{accounting.smaller:.1f} times smaller than" if accounting.smaller > 1 else "no smaller than"
    return (
        f"A weight takes {accounting.stored_bits:.1f} bits in it, and it is {times} the weights in float32; layers "
        f"compute in {accounting.computed_in}{pace}."
    )


def mixed_sentence(mixed: MixedRecord) -> str:
    """Returns how many layers have how many bits, and what that costs before fine-tuning."""
    given = list(mixed.layers.values())
    layers = ", ".join(f"{given.count(bits)} at {bits} bits" for bits in sorted(set(given)))
    return (
        f"Weights of layers: {layers}; {mixed.average_bits:.2f} bits on average, {mixed.stored_bytes / MIB:.3f} MiB. "
        f"Before fine-tuning, on {mixed.images} held images: top-1 agreement with float "
        f"{mixed.agreement:.1f} %, with the most bits for every layer {mixed.widest_agreement:.1f} %."
    )
