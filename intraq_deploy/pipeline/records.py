"""Records of run.json, made from values in memory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from intraq_deploy.data.unlabelled import UnlabelledImages
from intraq_deploy.evaluation.accuracy import Accuracy
from intraq_deploy.evaluation.parity import agreement
from intraq_deploy.evaluation.reliability import reliability
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.details import ClassesRecord, ReliabilityRecord
from intraq_deploy.pipeline.report import (
    AccountingRecord,
    AccumulatorRecord,
    ArtifactRecord,
    CalibrationRecord,
    ImagesRecord,
    LayerRecord,
    ModelRecord,
    ParityRecord,
    QualityRecord,
    RunReport,
    TolerancedRecord,
)
from intraq_deploy.pipeline.run import Run, machine, versions
from intraq_deploy.pipeline.validation import Validation
from intraq_deploy.program.bounds import accumulators
from intraq_deploy.program.program import FloatWeights, IntegerWeights, Program
from intraq_deploy.quantization.layers_report import LayerRow
from intraq_deploy.synthesis.quality import Quality
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.artifact import Artifact


def run_report(run: Run, images: ImagesRecord | CalibrationRecord, **further: Any) -> RunReport:
    """Returns the report of a run. further: the fields that it has beyond those of a run that has its images only."""
    options = run.options
    return RunReport(
        model=model_record(run),
        bits=run.bits,
        scheme=options.scheme,
        preset=options.recipe_name,
        seed=options.seed,
        device=run.device.type,
        versions=versions(),
        machine=machine(),
        input=options.input,
        made_for=options.made_for,
        images=images,
        reconstructed=run.recipe.reconstruction.enabled,
        steps=run.recipe.training.steps,
        **further,
    )


def model_record(run: Run) -> ModelRecord:
    """Returns the record of the network that is quantized."""
    model = run.model
    return ModelRecord(
        architecture=model.architecture,
        source=model.source.location,
        source_sha256=model.source.sha256,
        weights_sha256=run.weights_sha256,
        classes=model.classes,
        input_shape=model.input_shape,
        mean=model.preprocessing.mean,
        std=model.preprocessing.std,
        preprocessing_source=model.preprocessing.source,
    )


def images_record(run: Run, quality: Quality, noise: Quality | None) -> ImagesRecord:
    """Returns the record of synthetic images. noise: the quality of noise."""
    recipe = run.recipe.synthesis
    return ImagesRecord(
        count=recipe.images,
        iterations=recipe.iterations,
        **dict(quality_record(quality)),
        noise=None if noise is None else quality_record(noise),
    )


def quality_record(quality: Quality) -> QualityRecord:
    """Returns the record of images' quality."""
    distance = quality.intra_class_distance
    return QualityRecord(
        bn_distance=round(quality.bn_distance, 4),
        confidence=round(quality.confidence, 4),
        agreement=round(quality.agreement, 2),
        intra_class_distance=None if distance is None else round(distance, 4),
    )


def calibration_record(images: SyntheticSet, own: UnlabelledImages) -> CalibrationRecord:
    """Returns the record of a person's own images. images: `own`, with pseudo-labels."""
    return CalibrationRecord(
        calibration=own.name,
        count=len(images),
        found=own.found,
        confidence=round(float(images.targets.mean()), 4),
        classes=len(images.labels.unique()),
    )


def layer_records(rows: Sequence[LayerRow], program: Program, noise: Mapping[str, float | None]) -> list[LayerRecord]:
    """Returns the records of the network's nodes. noise: signal to noise by node, in decibels."""
    largest = accumulators(program)
    found = []
    for row in rows:
        weights, grid, ratio = program.layers.get(row.name), program.grids.get(row.name), noise.get(row.name)
        found.append(
            LayerRecord(
                **asdict(row),
                weights=weights.codes.numel() if isinstance(weights, IntegerWeights | FloatWeights) else 0,
                scale=None if grid is None else grid.scale,
                headroom_bits=_headroom(largest[row.name]) if row.name in largest else None,
                signal_to_noise=None if ratio is None else round(ratio, 1),
            )
        )
    return found


def parity_record(validation: Validation, float_logits: Tensor, fake_quant_logits: Tensor) -> ParityRecord:
    """Returns the record of one comparison. Logits: float32 [N, classes], on the compared images."""
    parity = validation.parity
    return ParityRecord(
        images=len(parity.expected),
        tensors=len(parity.tensors),
        integers_compared=parity.compared,
        integers_mismatched=parity.mismatched,
        exact_mismatched=sum(tensor.beyond_rounding for tensor in parity.tensors if tensor.tolerance is None),
        toleranced=[
            TolerancedRecord(
                tensor=tensor.name,
                reason=tensor.reason or "",
                allowed_share=tensor.tolerance,
                mismatched=tensor.mismatched,
                compared=tensor.compared,
            )
            for tensor in parity.tensors
            if tensor.tolerance is not None
        ],
        near_ties=int(parity.near_ties.sum()),
        mismatched_tensors={tensor.name: tensor.mismatched for tensor in parity.tensors if tensor.mismatched},
        underused_tensors=[tensor.name for tensor in parity.tensors if tensor.underused],
        top1_agreement=round(validation.top1_agreement, 2),
        fake_quant_agreement=round(agreement(fake_quant_logits, parity.expected), 2),
        float_agreement=round(agreement(float_logits, validation.logits), 2),
        logits_equal=validation.logits_equal,
        instrumented_equal=validation.instrumented_equal,
        integer_kernels=validation.integer_kernels,
        float_kernels=validation.float_kernels,
        rehearsed=validation.rehearsed,
        ran_by=validation.ran_by,
    )


def accumulator_record(program: Program) -> AccumulatorRecord | None:
    """Returns the record of the largest accumulator; None for a program without integer layers."""
    bounds = accumulators(program)
    if not bounds:
        return None
    layer, largest = max(bounds.items(), key=lambda item: item[1])
    return AccumulatorRecord(layer=layer, largest=largest, headroom_bits=_headroom(largest))


def _headroom(accumulator: int) -> float:
    """Returns how many times it could double before it leaves int32."""
    return round(math.log2((1 << 31) / max(accumulator, 1)), 2)


def artifact_record(run: Run, artifact: Artifact, program: Program) -> ArtifactRecord:
    """Returns the record of a file that lies in the run directory."""
    return ArtifactRecord(
        path=relative(run.directory.path, artifact.path),
        bytes=artifact.bytes,
        items=artifact.items,
        sha256=artifact.sha256,
        accounting=_accounting(artifact, program),
        companions=artifact.companions,
    )


def _accounting(artifact: Artifact, program: Program) -> AccountingRecord:
    layers = [layer for layer in program.layers.values() if isinstance(layer, IntegerWeights | FloatWeights)]
    weights = sum(layer.codes.numel() for layer in layers)
    stored = sum(size for item, size in artifact.items.items() if item.startswith("weights "))
    plain = 4 * (weights + sum(len(layer.scale) for layer in layers))
    return AccountingRecord(
        weights=weights,
        stored_bits=round(8 * stored / weights, 2),
        computed_in=_computed_in(artifact, layers),
        smaller=round(plain / artifact.bytes, 2),
    )


def _computed_in(artifact: Artifact, layers: Sequence[IntegerWeights | FloatWeights]) -> str:
    floats = sum(isinstance(layer, FloatWeights) for layer in layers)
    kinds = "INT8" if floats < len(layers) else ""
    if "weights int4" in artifact.items and artifact.runtime != "onnxruntime":
        kinds += ", linear layers with INT4 weights in float16"
    if floats:
        kinds += f"{', ' if kinds else ''}{floats} layers in float32"
    return kinds


def relative(root: Path, path: Path) -> str:
    """Returns `path` as seen from `root`, with slashes."""
    return path.relative_to(root).as_posix()


def accuracy_record(accuracy: Mapping[str, Accuracy], names: list[str], figure: str) -> dict[str, int | float]:
    """Returns the number of images and a figure, "top1" or "top5", by name, in percent."""
    images = next(iter(accuracy.values())).images
    return {"images": images} | {name: round(getattr(accuracy[name], figure), 3) for name in names}


def classes_record(accuracy: Mapping[str, Accuracy], names: list[str], labels: Tensor, model: Model) -> ClassesRecord:
    """Returns the record of accuracy by class. labels: of the images, int64 [images]."""

    def count(which: Tensor) -> list[int]:
        counted: list[int] = which.bincount(minlength=model.classes).tolist()
        return counted

    return ClassesRecord(
        names=None if model.class_names is None else list(model.class_names),
        images=count(labels),
        right={name: count(labels[accuracy[name].right]) for name in names},
    )


def reliability_record(accuracy: Accuracy) -> ReliabilityRecord:
    """Returns the record of the calibration of a network's confidence."""
    found = reliability(accuracy.probability, accuracy.right)
    return ReliabilityRecord(
        error=round(found.error, 3),
        images=found.images.tolist(),
        confidence=[round(value, 2) for value in found.confidence.tolist()],
        right=[round(value, 2) for value in found.right.tolist()],
    )
