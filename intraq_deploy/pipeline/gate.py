"""The gate, run: parity on the run's images for every target, accuracy where labelled images are there, and what may
not be shipped."""

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from intraq_deploy.data import LabelledImages
from intraq_deploy.evaluation.accuracy import Accuracy
from intraq_deploy.pipeline import records
from intraq_deploy.pipeline.measurement import advice, measure
from intraq_deploy.pipeline.report import RunReport
from intraq_deploy.pipeline.run import Run, machine
from intraq_deploy.pipeline.validation import Validation, normalised, parity_count, program_input, validate
from intraq_deploy.program import Program
from intraq_deploy.program.program import IntegerWeights
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.opening import why_rehearsed
from intraq_deploy.targets.tensorrt.engine import Engine, EngineSessions
from intraq_deploy.targets.tensorrt.layers import INT8
from intraq_deploy.targets.tensorrt.rehearsal import engine_program

_MIB = 1 << 20
_SHOWN = 4
_LEAST_POINTS, _LEAST_IMAGES, _SPREADS = 0.1, 3, 3
"""A deployed network may fall below the fake-quant module by the greatest of so many points, so many images, and so
many standard deviations of what chance does."""


def check(
    run: Run,
    report: RunReport,
    student: FakeQuantNetwork,
    program: Program,
    artifacts: Mapping[str, Artifact],
    images: SyntheticSet,
    labelled: LabelledImages | None,
    compared: Mapping[str, Artifact],
    engines: Mapping[str, EngineSessions],
) -> None:
    """Fills in the report's parity, accuracy, comparison, advice, warnings, failures and status.

    compared: the baselines; without labelled images they are not looked at. engines: by target, those that run on this
    machine's GPU, in place of a rehearsal.
    """
    report.machine = machine()
    report.failures, report.warnings = _of_others(report.failures, artifacts), _of_others(report.warnings, artifacts)
    report.versions["onnxruntime"] = onnxruntime().__version__
    inputs, trained = parity_images(student, program, images)
    for target, artifact in artifacts.items():
        validation = validate(artifact, program, inputs, engines.get(target))
        report.parity[target] = records.parity_record(validation, trained)
        report.failures += parity_failures(target, validation)
        if target in engines:
            report.failures += float_layers(artifact, program, engines[target].engine)
        elif target in report.engines:  # what was found of its engine still holds where it cannot run
            found = report.engines[target].failures
            report.failures += [failure for failure in found if failure not in report.failures]
        report.warnings += _warnings(artifact, validation)
    if labelled is not None:
        _check_accuracy(run, report, student, program, artifacts, labelled, compared, engines)
    report.warnings += _size_warnings(report, artifacts)
    report.status = "failed" if report.failures else "passed"
    for warning in report.warnings:
        run.progress.warn(warning)


def _of_others(sentences: list[str], artifacts: Mapping[str, Artifact]) -> list[str]:
    """What was found of targets that are not checked now: it still holds."""
    return [sentence for sentence in sentences if re.split("[: ]", sentence)[0] not in artifacts]


def parity_images(student: FakeQuantNetwork, program: Program, images: SyntheticSet) -> tuple[Tensor, Tensor]:
    """What integers are compared on, as the program takes it, [N, C, H, W], and the fake-quant module's logits."""
    inputs = program_input(program, images.images[: parity_count(program, len(images))])
    with torch.no_grad():
        trained = torch.cat([student(part) for part in normalised(program, inputs).split(32)])
    return inputs, trained


def _check_accuracy(
    run: Run,
    report: RunReport,
    student: FakeQuantNetwork,
    program: Program,
    artifacts: Mapping[str, Artifact],
    labelled: LabelledImages,
    compared: Mapping[str, Artifact],
    engines: Mapping[str, EngineSessions],
) -> None:
    measured = measure(run, labelled, student, program, artifacts, compared, engines)
    report.eval = labelled.name
    names = ["float", "fake_quant", "program", *artifacts]
    report.accuracy = records.accuracy_record(measured.accuracy, names, "top1")
    report.accuracy_top5 = records.accuracy_record(measured.accuracy, names, "top5")
    report.comparison = measured.rows
    for target in artifacts:
        report.failures += accuracy_failures(target, measured.accuracy)
    first = next(iter(artifacts.values()))
    report.advice = advice(measured.rows, first.target, report.label, first.runtime)


def parity_failures(target: str, validation: Validation) -> list[str]:
    """One sentence for everything that differs more than the program declares."""
    failures = []
    for tensor in validation.parity.failures:
        allowed = "none may" if tensor.tolerance is None else f"{tensor.tolerance:.1%} may, by 1"
        if tensor.beyond_rounding < tensor.mismatched:
            allowed = f"{tensor.mismatched - tensor.beyond_rounding:,} of them by rounding in another order, which may"
        failures.append(
            f"{target}: {tensor.mismatched:,} of {tensor.compared:,} integers of {tensor.name} differ by up to "
            f"{tensor.largest_difference} ({allowed})."
        )
    if not validation.parity.logits_pass:
        bound = validation.parity.logits_tolerance
        failures.append(
            f"{target}: its logits differ from the reference's by {validation.parity.logits_difference:.1e} of the "
            f"largest ({'they may not' if bound is None else f'{bound:.0e} is allowed'})."
        )
    if not validation.instrumented_equal:
        failures.append(f"{target}: looking at its integers changes its logits; the comparison says nothing about it.")
    return failures


def float_layers(artifact: Artifact, program: Program, engine: Engine) -> list[str]:
    """Layers that the file has as integers, and the engine does not multiply so, or does not say."""
    integer = engine_program(artifact, program).layers
    others = {
        name: kind
        for name, kind in engine.layers.items()
        if isinstance(integer.get(name), IntegerWeights) and kind != INT8
    }
    if not others:
        return []
    listed = ", ".join(f"{name} ({kind})" for name, kind in list(others.items())[:_SHOWN])
    return [f"{artifact.target}: {len(others)} of {len(integer)} layers do not multiply INT8 in the engine: {listed}."]


def accuracy_failures(target: str, accuracy: Mapping[str, Accuracy]) -> list[str]:
    """Whether the deployed network answers worse than the one that was trained.

    Float sums put a few codes in a million of the fake-quant module on the other side of a tie. Deep networks with
    8-bit activations amplify that until some answers change, to right ones as to wrong ones: if n become right or wrong
    by chance, their balance has a standard deviation of sqrt(n) images (McNemar's test).
    """
    trained, deployed = accuracy["fake_quant"], accuracy[target]
    lost = int((trained.right & ~deployed.right).sum())
    won = int((deployed.right & ~trained.right).sum())
    allowed = max(_LEAST_POINTS / 100 * trained.images, _LEAST_IMAGES, _SPREADS * math.sqrt(lost + won))
    if lost - won <= allowed + 1e-9:
        return []
    return [
        f"{target}: its top-1 is {deployed.top1:.2f}, below the fake-quant module's {trained.top1:.2f}: of "
        f"{trained.images:,} answers {lost:,} became wrong and {won:,} right, and {allowed:.0f} more wrong than right "
        "are allowed."
    ]


def _size_warnings(report: RunReport, targets: Iterable[str]) -> list[str]:
    """Files that are larger than what was asked for: the budget is of codes, scales and biases alone."""
    limit = None if report.mixed is None else report.mixed.asked.max_size
    if report.mixed is None or limit is None:
        return []
    return [
        f"{target}: its file has {artifact.bytes / _MIB:.2f} MiB; --max-size {limit:g} counts codes, scales and biases "
        f"({report.mixed.stored_bytes / _MIB:.2f} MiB), and the file also holds a graph and may store codes wider."
        for target in targets
        if (artifact := report.artifacts[target]).bytes > limit * _MIB
    ]


def _warnings(artifact: Artifact, validation: Validation) -> list[str]:
    """What a person should know although the gate passes."""
    target, absent = artifact.target, why_rehearsed(artifact)
    notes = [] if absent is None else [f"{target} was not run on its provider. {absent}"]
    floats = {op: n for op, n in validation.float_kernels.items() if "Conv" in op or "Gemm" in op or "MatMul" in op}
    if floats:
        listed = ", ".join(f"{n} {op}" for op, n in floats.items())
        notes.append(f"{target}: {listed} run in float; `intraq-deploy inspect` says why.")
    if validation.layers_left_in_float > 0:
        notes.append(
            f"{target}: {validation.layers_left_in_float} layers that could run on integers run in float: the results "
            "are right, and slower than they could be."
        )
    underused = [tensor.name for tensor in validation.parity.tensors if tensor.underused]
    if underused:
        notes.append(
            f"{target}: {len(underused)} tensors use less than half of their codes ({', '.join(underused[:4])})."
        )
    return notes
