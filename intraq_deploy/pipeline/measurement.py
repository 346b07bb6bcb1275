"""Accuracy on labelled images, beside the float network, our own W8A8 and 8-bit activations: what low bits cost."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from intraq_deploy.data.labelled import LabelledImages, normalise
from intraq_deploy.errors import TargetError
from intraq_deploy.evaluation.accuracy import Accuracy, Predict, evaluate
from intraq_deploy.evaluation.latency import interleaved, medians
from intraq_deploy.pipeline.candidate import GateCandidate
from intraq_deploy.pipeline.comparison import A8, CUDA_FLOAT16, CUDA_FLOAT32, FLOAT32, W8A8, ComparisonRow
from intraq_deploy.pipeline.export import whole_artifact
from intraq_deploy.pipeline.keeping import OpenStage, StageWork, kept_or_made
from intraq_deploy.pipeline.report import MixedRecord
from intraq_deploy.pipeline.run import Run, tensor_sha256
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.pipeline.schemes import SchemeChoice
from intraq_deploy.pipeline.stages import QUALITY_IMAGES
from intraq_deploy.program.freeze import float_program, freeze
from intraq_deploy.program.program import Program
from intraq_deploy.program.reference import Reference
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.quantization.spec import MAX_BITS
from intraq_deploy.synthesis.quality import Quality, measure_quality
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnxruntime.gpu import NO_INTEGER_CONVOLUTION, CudaSession
from intraq_deploy.targets.onnxruntime.half import in_float16
from intraq_deploy.targets.onnxruntime.opening import is_rehearsed, open_shipped
from intraq_deploy.targets.onnxruntime.providers import CUDA, why_absent
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.engine import EngineSessions
from intraq_deploy.targets.tensorrt.host import Runs

BASELINES = "baselines"
FLOAT = "float"
"""The name of the float network in PyTorch, among accuracies and findings."""
_FORMS = {FLOAT: "float network", "fake_quant": "as trained", "program": "integer reference"}
"""The names, in the display, of the forms of the network that no runtime runs."""
_TARGET = "onnxruntime"
"""The target of the baselines."""
_BATCH = 100
_ROUNDS, _SECONDS = 200, 0.5
"""The rounds and seconds of timing: at most so many rounds, in about so many seconds for each model."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Accuracy on labelled images, and the table of all that is deployed."""

    images: str
    """The name of the labelled images."""
    labels: Tensor
    """The images' labels, int64 [images]."""
    quality: Quality | None
    """The images' quality, as of synthetic ones; None where a person's own images took the place of those."""
    accuracy: dict[str, Accuracy]
    """Accuracy by name: "float", "fake_quant", "program", each target, and the baselines as deployed."""
    rows: list[ComparisonRow]


def baselines(
    run: Run, images: SyntheticSet, mixed: MixedRecord | None, *, quantized: bool = True
) -> dict[str, Artifact]:
    """Returns the float network, W8A8 and A8 for ONNX Runtime by name, ranges only, no fine-tuning.

    mixed: the weight bits that were chosen layer by layer. quantized: whether the latter two are wanted.
    """
    schemes = _baseline_schemes(run, mixed) if quantized else {}

    def load(folder: Path) -> dict[str, Artifact]:
        return {name: whole_artifact(folder / name) for name in (FLOAT32, *schemes)}

    def make(stage: OpenStage) -> dict[str, Artifact]:
        _export_baselines(run, images, schemes, stage.folder)
        return load(stage.folder)

    key = key_of(
        network=run.network_sha256,
        images=tensor_sha256(images.images),
        seed=run.options.seed,
        schemes={name: asdict(scheme) for name, scheme in schemes.items()},
        normalization=run.normalization,
    )
    return kept_or_made(run, StageWork(BASELINES, key), load, make)


def _baseline_schemes(run: Run, mixed: MixedRecord | None) -> dict[str, Scheme]:
    """Returns the schemes of the quantized baselines, for ONNX Runtime whatever the run's own targets are."""
    choice = SchemeChoice("integer", (_TARGET,), depthwise_bits=run.options.depthwise_bits)
    schemes = {W8A8: choice.at(MAX_BITS, MAX_BITS)}
    if run.options.activation_bits < MAX_BITS:
        layers = None if mixed is None else mixed.layers
        schemes[A8] = choice.at(run.options.weight_bits, MAX_BITS, layers)
    return schemes


def _export_baselines(run: Run, images: SyntheticSet, schemes: Mapping[str, Scheme], folder: Path) -> None:
    programs = {FLOAT32: float_program(run.graph, run.normalization)}
    for name, scheme in schemes.items():
        # Whatever the recipe does to the network before it is quantized is no part of a baseline.
        student = build_network(run.graph, scheme, images.images, run.options.seed)
        settle(student)
        programs[name] = freeze(student, run.normalization)
    for name, program in programs.items():
        (folder / name).mkdir(exist_ok=True)
        export(program, load_profile(_TARGET), folder / name, {})


def measure_accuracy(
    run: Run, candidate: GateCandidate, labelled: LabelledImages, compared: Mapping[str, Artifact]
) -> Measurement:
    """Measures top-1 and top-5 of every form of the network and of the baselines. compared: the baselines."""
    program, engines = candidate.program, candidate.engines
    takes_pixels = program.normalization is not None
    deployed = {**compared, **candidate.artifacts}
    on_cuda = _on_cuda(run, compared[FLOAT32])
    sessions: dict[str, Runs] = {
        name: engines[name].shipped if name in engines else open_shipped(artifact)
        for name, artifact in deployed.items()
    }
    sessions |= on_cuda
    normalised: dict[str, Predict] = {FLOAT: run.model.module, "fake_quant": candidate.student}
    as_program: dict[str, Predict] = {"program": Reference(program).run}
    as_program |= {name: session.run for name, session in sessions.items()}
    total = (len(normalised) + len(as_program)) * len(labelled)
    run.progress.start("accuracy", total, "images")
    accuracy: dict[str, Accuracy] = {}
    for name, predict in (normalised | as_program).items():
        pixels = takes_pixels and name in as_program
        batches = labelled.uint8_batches(_BATCH) if pixels else labelled.batches(_BATCH)
        accuracy[name] = evaluate(_watched(run, name, predict, len(accuracy) * len(labelled)), batches)
    milliseconds = _times({**compared, **timed_here(run, candidate.artifacts)}, on_cuda, engines, _sample(program))
    rows = _rows(accuracy, deployed, on_cuda, engines, milliseconds)
    return Measurement(labelled.name, labelled.labels, _quality(run, labelled), accuracy, rows)


def measure_speed(run: Run, candidate: GateCandidate, compared: Mapping[str, Artifact]) -> list[ComparisonRow]:
    """Returns the sizes and times of what is deployed, without accuracy. compared: the float network."""
    on_cuda = _on_cuda(run, compared[FLOAT32])
    here = {**compared, **timed_here(run, candidate.artifacts)}
    milliseconds = _times(here, on_cuda, candidate.engines, _sample(candidate.program))
    return _rows({}, {**compared, **candidate.artifacts}, on_cuda, candidate.engines, milliseconds)


def _sample(program: Program) -> Tensor:
    """Returns one image as the program takes it, uint8 or float32 [1, C, H, W]."""
    dtype = torch.float32 if program.normalization is None else torch.uint8
    return torch.zeros(1, *program.graph.input.shape, dtype=dtype)


def _quality(run: Run, labelled: LabelledImages) -> Quality | None:
    """Returns the quality of labelled images, some of all classes; None for a run without synthetic ones."""
    if run.options.calibration is not None:
        return None
    chosen = torch.linspace(0, len(labelled) - 1, min(QUALITY_IMAGES, len(labelled))).long()
    pixels = np.stack([labelled.images.read(index) for index in chosen.tolist()])
    images = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2), labelled.preprocessing)
    size = run.image_model.input_shape[1:]
    if images.shape[2:] != size:
        images = interpolate(images, size, mode="bilinear", antialias=True)
    labels = labelled.labels[chosen]
    return measure_quality(run.probe, SyntheticSet(images, labels, torch.ones(len(labels))))


def _watched(run: Run, name: str, predict: Predict, done: int) -> Predict:
    """Returns a function that tells the watcher how many images went through it. done: those before it."""

    def watched(images: Tensor) -> Tensor:
        nonlocal done
        logits = predict(images)
        done += len(images)
        run.progress.advance(done, _FORMS.get(name, name))
        return logits

    return watched


def timed_here(run: Run, artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Returns the artifacts, by target, whose times in ONNX Runtime here are those of their targets' users."""
    return {
        name: artifact
        for name, artifact in artifacts.items()
        if run.profile(name).is_for_this_machine and not is_rehearsed(artifact)
    }


def _on_cuda(run: Run, plain: Artifact) -> dict[str, CudaSession]:
    """Returns the float network as baselines for GPUs; nothing where the provider does not load.

    They are no target, so a network that it cannot run is said and left out.
    """
    if why_absent(CUDA) is not None:
        return {}
    try:
        return {CUDA_FLOAT32: CudaSession(plain.path), CUDA_FLOAT16: CudaSession(in_float16(plain.path.read_bytes()))}
    except TargetError as error:
        run.progress.warn(f"There are no rows for CUDA: {error}")
        return {}


def _times(
    here: Mapping[str, Artifact],
    on_cuda: Mapping[str, CudaSession],
    engines: Mapping[str, EngineSessions],
    sample: Tensor,
) -> dict[str, float]:
    """Returns milliseconds at batch 1 by name, all timed in turn on one thread. here: what ONNX Runtime runs here.

    sample: one image as the networks take it, uint8 or float32 [1, C, H, W].
    """
    sessions: dict[str, Session] = {
        name: open_shipped(artifact, 1) for name, artifact in here.items() if name not in engines
    }
    sessions |= on_cuda
    runs = {name: partial(session.run, sample) for name, session in sessions.items()}
    times = medians(interleaved(runs, _ROUNDS, _SECONDS * len(runs), threads=1))
    return times | {name: engine.shipped.milliseconds(sample) for name, engine in engines.items()}


def _rows(
    accuracy: Mapping[str, Accuracy],
    artifacts: Mapping[str, Artifact],
    on_cuda: Mapping[str, CudaSession],
    engines: Mapping[str, EngineSessions],
    milliseconds: Mapping[str, float],
) -> list[ComparisonRow]:
    """Returns a row for each deployed network. accuracy: empty without labelled images; milliseconds: of those that
    were timed, by name."""
    notes = dict.fromkeys(on_cuda, NO_INTEGER_CONVOLUTION)
    notes |= {name: f"{name} on {engine.engine.gpu}, transfers apart" for name, engine in engines.items()}
    sizes = {name: artifact.bytes for name, artifact in artifacts.items()}
    sizes |= {name: session.bytes for name, session in on_cuda.items()}
    return [
        ComparisonRow(
            name=name,
            top1=accuracy[name].top1 if accuracy else None,
            top5=accuracy[name].top5 if accuracy else None,
            bytes=sizes[name],
            milliseconds=milliseconds.get(name),
            note=notes.get(name),
        )
        for name in (FLOAT32, *on_cuda, *(name for name in artifacts if name != FLOAT32))
    ]
