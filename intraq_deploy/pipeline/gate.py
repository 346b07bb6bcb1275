"""The gate: parity on the run's images for every target, accuracy where labelled images are there.

A candidate goes in, a result comes out; what may not be shipped is in its failures.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intraq_deploy.data.labelled import LabelledImages
from intraq_deploy.data.loading import load_labelled
from intraq_deploy.evaluation.accuracy import Accuracy
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline import findings, records
from intraq_deploy.pipeline.advice import advise
from intraq_deploy.pipeline.candidate import GateCandidate
from intraq_deploy.pipeline.comparison import FLOAT32, ComparisonRow
from intraq_deploy.pipeline.engines import engines_here
from intraq_deploy.pipeline.finished import opened_run
from intraq_deploy.pipeline.measurement import FLOAT, Measurement, baselines, measure_accuracy, measure_speed
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.options import check_apart
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.report import MixedRecord, ParityRecord, RunReport
from intraq_deploy.pipeline.run import Run, machine
from intraq_deploy.pipeline.validation import Validation, normalised, parity_count, program_input, validate
from intraq_deploy.program.program import IntegerWeights, Program
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnxruntime.imports import onnxruntime
from intraq_deploy.targets.onnxruntime.opening import why_rehearsed
from intraq_deploy.targets.tensorrt.engine import Engine
from intraq_deploy.targets.tensorrt.layers import INT8
from intraq_deploy.targets.tensorrt.rehearsal import engine_program
from intraq_deploy.wording import MIB

_COMPARISON = "comparison"
"""The name of the comparison of integers in the display."""
_LEAST_POINTS, _LEAST_IMAGES, _SPREADS = 0.1, 3, 3
"""A deployed network may fall below the fake-quant module by the greatest of so many points, so many images, and so
many standard deviations of what chance does."""

_SLOWER = 1.05
"""A file that takes so many times as long as float32 is called slower."""
_ENOUGH_IMAGES, _DOUBTFUL, _ONE_CLASS = 20, 0.5, 60
"""The float network's accuracy is doubted on so many images or more, where it is below that share of its confidence, or
no better than one answer for all images, if no class has more than so many percent of them."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """The findings on one candidate."""

    parity: dict[str, ParityRecord]
    """The comparison with the program, by target."""
    rows: list[ComparisonRow]
    """A row for each thing that is deployed, with its time here."""
    measured: Measurement | None
    """Accuracy; None without labelled images."""
    failures: list[findings.Failure]
    warnings: list[findings.GateWarning]


def validate_run(opening: Opening, targets: tuple[str, ...], evaluate: str | None, progress: Progress) -> RunReport:
    """Runs the gate again, on a finished run's files as they are, and returns the report that the run then has.

    targets: empty for all that the run has. evaluate: labelled images in place of the run's own. Raises RunError for
    what is no run or is damaged, DataError and UsageError for images that cannot measure.
    """
    onnxruntime()
    with opened_run(opening, progress) as finished:
        run, report = finished.run, finished.report
        artifacts = finished.artifacts(targets)
        evaluate = evaluate or run.options.eval
        check_apart(run.options.calibration, evaluate)
        labelled = None if evaluate is None else load_labelled(evaluate, run.model)
        engines = engines_here(run, artifacts)
        candidate = GateCandidate(
            finished.student,
            finished.program,
            artifacts,
            finished.images,
            engines,
            {name: record.failures for name, record in report.engines.items() if name not in engines},
            report.mixed,
        )
        compared = baselines(run, finished.images, report.mixed, quantized=labelled is not None)
        return finished.keep(with_gate(report, run.model, candidate, run_gate(run, candidate, labelled, compared)))


def run_gate(
    run: Run, candidate: GateCandidate, labelled: LabelledImages | None, compared: Mapping[str, Artifact]
) -> GateResult:
    """Compares every artifact with the program, and measures its speed and accuracy.

    labelled: None leaves accuracy out. compared: the baselines, the float network among them.
    """
    program = candidate.program
    inputs, *expected = parity_images(run.model, candidate.student, program, candidate.images)
    parity: dict[str, ParityRecord] = {}
    failures: list[findings.Failure] = []
    warnings: list[findings.GateWarning] = []
    count = parity_count(program, len(inputs))
    run.progress.start(_COMPARISON, count * len(candidate.artifacts), "images")
    done = 0

    def tell(images: int) -> None:
        nonlocal done
        done += images
        run.progress.advance(done, f"{done} images, every integer", stage=_COMPARISON)

    for target, artifact in candidate.artifacts.items():
        sessions = candidate.engines.get(target)
        validation = validate(artifact, program, inputs, sessions, tell)
        parity[target] = records.parity_record(validation, *expected)
        failures += parity_failures(target, validation)
        if sessions is not None:
            failures += float_layers(artifact, program, sessions.engine)
        failures += [each for each in candidate.engine_failures.get(target, ()) if each not in failures]
        warnings += _parity_warnings(artifact, validation)
    measured, rows = None, list[ComparisonRow]()
    if labelled is None:
        rows = measure_speed(run, candidate, compared)
    else:
        measured = measure_accuracy(run, candidate, labelled, compared)
        rows = measured.rows
        warnings += eval_warnings(labelled, measured.accuracy[FLOAT])
        for target in candidate.artifacts:
            failures += accuracy_failures(target, measured.accuracy)
    warnings += [*speed_warnings(rows, candidate.artifacts), *_size_warnings(candidate.artifacts, candidate.mixed)]
    return GateResult(parity, rows, measured, failures, warnings)


def with_gate(report: RunReport, model: Model, candidate: GateCandidate, result: GateResult) -> RunReport:
    """Returns the report with what the gate found. Findings on targets that it did not look at still hold."""
    targets = {*candidate.artifacts, *({FLOAT} if result.measured is not None else ())}
    failures = [failure for failure in report.failures if failure.target not in targets] + result.failures
    changes: dict[str, object] = {
        "machine": machine(),
        "versions": report.versions | {"onnxruntime": onnxruntime().__version__},
        "failures": failures,
        "warnings": [warning for warning in report.warnings if warning.target not in targets] + result.warnings,
        "parity": report.parity | result.parity,
        "status": "failed" if failures else "passed",
    }
    if result.measured is not None:
        changes |= _measured(report, model, candidate, result.measured)
    elif report.accuracy is None:
        changes["comparison"] = result.rows
    return report.changed(**changes)


def _measured(report: RunReport, model: Model, candidate: GateCandidate, measured: Measurement) -> dict[str, object]:
    names = [FLOAT, "fake_quant", "program", *candidate.artifacts]
    # The program answers as every exact target does: those say it.
    detailed = [FLOAT, "fake_quant", *candidate.artifacts]
    first = next(iter(candidate.artifacts.values()))
    return {
        "eval": measured.images,
        "accuracy": records.accuracy_record(measured.accuracy, names, "top1"),
        "accuracy_top5": records.accuracy_record(measured.accuracy, names, "top5"),
        "classes": records.classes_record(measured.accuracy, detailed, measured.labels, model),
        "reliability": {name: records.reliability_record(measured.accuracy[name]) for name in detailed},
        "labelled_quality": None if measured.quality is None else records.quality_record(measured.quality),
        "comparison": measured.rows,
        "advice": advise(
            measured.rows, first.target, first.runtime, images=len(measured.labels), only_w8a8=report.is_w8a8
        ),
    }


def speed_warnings(
    rows: Sequence[ComparisonRow], artifacts: Mapping[str, Artifact]
) -> Iterator[findings.SlowerThanFloat]:
    """Yields the targets whose files take longer than float32 does, both timed in turn on this CPU."""
    times = {row.name: row.milliseconds for row in rows if row.note is None and row.milliseconds is not None}
    plain = times.get(FLOAT32)
    for target in artifacts:
        own = times.get(target)
        if plain is not None and own is not None and own > _SLOWER * plain:
            yield findings.SlowerThanFloat(target=target, milliseconds=own, float_milliseconds=plain)


def parity_images(
    model: Model, student: FakeQuantNetwork, program: Program, images: SyntheticSet
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what integers are compared on, as the program takes it, float32 or uint8 [N, C, H, W], and the logits of
    the float network and of the fake-quant module for it, float32 [N, classes]."""
    inputs = program_input(program, images.images[: parity_count(program, len(images))])
    parts = normalised(program, inputs).split(32)
    with torch.no_grad():
        floating, trained = (torch.cat([network(part) for part in parts]) for network in (model.module, student))
    return inputs, floating, trained


def parity_failures(target: str, validation: Validation) -> Iterator[findings.Failure]:
    """Yields a failure for everything that differs more than the program declares, in execution order."""
    parity = validation.parity
    for tensor in parity.failures:
        yield findings.TensorDiffers(
            target=target,
            tensor=tensor.name,
            mismatched=tensor.mismatched,
            compared=tensor.compared,
            largest_difference=tensor.largest_difference,
            beyond_rounding=tensor.beyond_rounding,
            allowed_share=tensor.tolerance,
        )
    if not parity.logits_pass:
        yield findings.LogitsDiffer(target=target, difference=parity.logits_difference, allowed=parity.logits_tolerance)
    if not validation.instrumented_equal:
        yield findings.InstrumentsDisturb(target=target)


def float_layers(artifact: Artifact, program: Program, engine: Engine) -> Iterator[findings.Failure]:
    """Yields a failure if there are layers that the file has as integers, and the engine does not multiply so, or does
    not say."""
    integer = engine_program(artifact, program).layers
    others = {
        name: kind
        for name, kind in engine.layers.items()
        if isinstance(integer.get(name), IntegerWeights) and kind != INT8
    }
    if others:
        yield findings.LayersNotInt8(target=artifact.target, layers=others, of=len(integer))


def accuracy_failures(target: str, accuracy: Mapping[str, Accuracy]) -> Iterator[findings.Failure]:
    """Yields a failure if the deployed network is less accurate than the one that was trained.

    Float sums put a few codes in a million of the fake-quant module on the other side of a tie. Deep networks with
    8-bit activations amplify that until some predictions change, to right ones as to wrong ones: if n become right or
    wrong by chance, their balance has a standard deviation of sqrt(n) images (McNemar's test).
    """
    trained, deployed = accuracy["fake_quant"], accuracy[target]
    lost = int((trained.right & ~deployed.right).sum())
    won = int((deployed.right & ~trained.right).sum())
    allowed = max(_LEAST_POINTS / 100 * trained.images, _LEAST_IMAGES, _SPREADS * math.sqrt(lost + won))
    if lost - won > allowed + 1e-9:
        yield findings.AccuracyLost(
            target=target,
            top1=deployed.top1,
            fake_quant_top1=trained.top1,
            images=trained.images,
            became_wrong=lost,
            became_right=won,
            allowed=allowed,
        )


def eval_warnings(labelled: LabelledImages, floating: Accuracy) -> Iterator[findings.GateWarning]:
    """Yields what speaks for wrong labels or a wrong preprocessing. floating: the float network's accuracy."""
    if labelled.sorted_labels is not None:
        others = 100 * float((floating.predicted == labelled.sorted_labels).double().mean())
        yield findings.NumberedFolders(target=FLOAT, top1=floating.top1, sorted_top1=others)
    if labelled.empty:
        yield findings.EmptyClassFolders(target=FLOAT, folders=list(labelled.empty))
    chance = 100 * int(labelled.labels.bincount().max()) / len(labelled)
    if len(labelled) >= _ENOUGH_IMAGES and (
        floating.top1 < _DOUBTFUL * floating.confidence or (floating.top1 <= chance < _ONE_CLASS)
    ):
        yield findings.FloatInaccurate(target=FLOAT, top1=floating.top1, confidence=floating.confidence, chance=chance)


def _size_warnings(artifacts: Mapping[str, Artifact], mixed: MixedRecord | None) -> Iterator[findings.GateWarning]:
    """Yields files that are larger than the budget, which is for codes, scales and biases alone."""
    if mixed is None or mixed.asked.max_size is None:
        return
    limit, stored = mixed.asked.max_size, mixed.stored_bytes
    for target, artifact in artifacts.items():
        if artifact.bytes > limit * MIB:
            yield findings.LargerThanAsked(target=target, bytes=artifact.bytes, stored_bytes=stored, max_size=limit)


def _parity_warnings(artifact: Artifact, validation: Validation) -> Iterator[findings.GateWarning]:
    target, absent = artifact.target, why_rehearsed(artifact)
    if absent is not None:
        yield findings.NotOnProvider(target=target, reason=absent)
    floats = {op: n for op, n in validation.float_kernels.items() if "Conv" in op or "Gemm" in op or "MatMul" in op}
    if floats:
        yield findings.FloatKernels(target=target, kernels=floats)
    if validation.layers_left_in_float > 0:
        yield findings.LayersLeftInFloat(target=target, layers=validation.layers_left_in_float)
    underused = [tensor.name for tensor in validation.parity.tensors if tensor.underused]
    if underused:
        yield findings.UnderusedTensors(target=target, tensors=underused)
