"""Accuracy on labelled images, beside the float network, our own W8A8 and 8-bit activations: what low bits cost."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from intraq_deploy.data import LabelledImages
from intraq_deploy.errors import TargetError
from intraq_deploy.evaluation.accuracy import Accuracy, Predict, evaluate
from intraq_deploy.evaluation.latency import interleaved, medians
from intraq_deploy.pipeline.report import ComparisonRow
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import key_of, tensor_sha256
from intraq_deploy.pipeline.schemes import constraints_of
from intraq_deploy.pipeline.stages import kept, normalization_of, running, whole_artifact
from intraq_deploy.program import Program, Reference, float_program, freeze, settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.scheme import Scheme, make_scheme
from intraq_deploy.quantization.spec import MAX_BITS
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

FLOAT32, W8A8, A8 = "float32", "w8a8", "a8"
"""A8: the run's weight bits and 8-bit activations, for runs with fewer."""
CUDA_FLOAT32, CUDA_FLOAT16 = "cuda-float32", "cuda-float16"
"""The float network on ONNX Runtime's CUDA provider, where that loads."""
BASELINES = "baselines"
_BATCH = 100
_ROUNDS, _SECONDS = 200, 0.5
"""Of timing: at most so many, in about so many seconds for each model."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """By name: "float", "fake_quant", "program", each target; and the baselines FLOAT32, W8A8 and A8 as deployed."""

    accuracy: dict[str, Accuracy]
    rows: list[ComparisonRow]


def baselines(run: Run, images: SyntheticSet) -> dict[str, Artifact]:
    """The float network, W8A8 and A8 (ranges only, no fine-tuning) for ONNX Runtime."""
    schemes = _schemes(run)
    key = key_of(
        network=run.network_sha256,
        images=tensor_sha256(images.images),
        seed=run.options.seed,
        schemes={name: asdict(scheme) for name, scheme in schemes.items()},
        normalization=normalization_of(run),
    )

    def made(folder: Path) -> dict[str, Artifact]:
        return {name: whole_artifact(folder / name) for name in (FLOAT32, *schemes)}

    before = kept(run, BASELINES, key, made)
    if before is not None:
        return before
    with running(run, BASELINES, key, 1, "") as (stage, _):
        _export_baselines(run, images, schemes, stage.folder)
    return made(stage.folder)


def _schemes(run: Run) -> dict[str, Scheme]:
    """Of the quantized baselines."""
    o, constraints = run.options, constraints_of(("onnxruntime",))
    schemes = {W8A8: make_scheme("integer", MAX_BITS, MAX_BITS, constraints)}
    if o.activation_bits < MAX_BITS:
        schemes[A8] = replace(
            make_scheme("integer", o.weight_bits, MAX_BITS, constraints), layer_bits=run.scheme.layer_bits
        )
    return schemes


def _export_baselines(run: Run, images: SyntheticSet, schemes: Mapping[str, Scheme], folder: Path) -> None:
    normalization = normalization_of(run)
    programs = {FLOAT32: float_program(run.traced, normalization)}
    for name, scheme in schemes.items():
        # Whatever the recipe does to the network before it is quantized is no part of a baseline.
        student = build_network(run.traced, scheme, images.images, run.options.seed)
        settle(student)
        programs[name] = freeze(student, normalization)
    for name, program in programs.items():
        (folder / name).mkdir(exist_ok=True)
        export(program, load_profile("onnxruntime"), folder / name, {})


def measure(
    run: Run,
    labelled: LabelledImages,
    student: FakeQuantNetwork,
    program: Program,
    artifacts: Mapping[str, Artifact],
    compared: Mapping[str, Artifact],
    engines: Mapping[str, EngineSessions],
) -> Measurement:
    """Top-1 and top-5 of every stage, and of every deployed model. compared: the baselines. engines: by target, those
    that run on this machine's GPU."""
    takes_pixels = program.normalization is not None
    deployed = {**compared, **artifacts}
    on_cuda = _on_cuda(run, compared[FLOAT32])
    sessions: dict[str, Runs] = {
        name: engines[name].shipped if name in engines else open_shipped(artifact)
        for name, artifact in deployed.items()
    }
    sessions |= on_cuda
    normalised: dict[str, Predict] = {"float": run.model.module, "fake_quant": student}
    as_program: dict[str, Predict] = {"program": Reference(program).run}
    as_program |= {name: session.run for name, session in sessions.items()}
    total = (len(normalised) + len(as_program)) * len(labelled)
    run.progress.start("accuracy", total, "images")
    accuracy: dict[str, Accuracy] = {}
    for name, predict in (normalised | as_program).items():
        pixels = takes_pixels and name in as_program
        batches = labelled.uint8_batches(_BATCH) if pixels else labelled.batches(_BATCH)
        accuracy[name] = evaluate(predict, batches)
        run.progress.advance(len(accuracy) * len(labelled), name)
    return Measurement(accuracy, _rows(run, accuracy, deployed, on_cuda, engines, takes_pixels))


def _on_cuda(run: Run, plain: Artifact) -> dict[str, CudaSession]:
    """The float network as a baseline for GPUs; nothing where the provider does not load. It is no target, so what it
    cannot run is said and left out."""
    if why_absent(CUDA) is not None:
        return {}
    try:
        return {CUDA_FLOAT32: CudaSession(plain.path), CUDA_FLOAT16: CudaSession(in_float16(plain.path.read_bytes()))}
    except TargetError as error:
        run.progress.warn(f"There are no rows for CUDA: {error}")
        return {}


def _rows(
    run: Run,
    accuracy: Mapping[str, Accuracy],
    artifacts: Mapping[str, Artifact],
    on_cuda: Mapping[str, CudaSession],
    engines: Mapping[str, EngineSessions],
    pixels: bool,
) -> list[ComparisonRow]:
    """One line for each deployed model; those that run here are timed in turn on one thread."""
    sample = torch.zeros(1, *run.model.input_shape, dtype=torch.uint8 if pixels else torch.float32)
    sessions: dict[str, Session] = {
        name: open_shipped(artifact, 1)
        for name, artifact in artifacts.items()
        if name not in engines and not is_rehearsed(artifact)
    }
    sessions |= on_cuda
    runs = {name: partial(session.run, sample) for name, session in sessions.items()}
    times = medians(interleaved(runs, _ROUNDS, _SECONDS * len(runs), threads=1))
    times |= {name: engine.shipped.milliseconds(sample) for name, engine in engines.items()}
    notes = dict.fromkeys(on_cuda, NO_INTEGER_CONVOLUTION)
    notes |= {name: f"{name} on {engine.engine.gpu}, transfers apart" for name, engine in engines.items()}
    sizes = {name: artifact.bytes for name, artifact in artifacts.items()}
    sizes |= {name: session.bytes for name, session in on_cuda.items()}
    return [
        ComparisonRow(
            name=name,
            top1=accuracy[name].top1,
            top5=accuracy[name].top5,
            bytes=sizes[name],
            milliseconds=times.get(name),
            note=notes.get(name),
        )
        for name in (FLOAT32, *on_cuda, *(name for name in artifacts if name != FLOAT32))
    ]


def advice(rows: list[ComparisonRow], target: str, bits: str, runtime: str = "onnxruntime") -> str:
    """Which of the models to ship, and what fewer than 8 bits of activations cost. runtime: the target's."""
    by_name = {row.name: row for row in rows}
    if A8 not in by_name:
        return _against_eight(rows, target, bits, runtime)
    lost, lost_a8 = (by_name[FLOAT32].top1 - by_name[name].top1 for name in (target, A8))
    weights = bits.partition("A")[0]
    return (
        f"{_against_eight(rows, target, bits, runtime)} {weights}A8 (--activation-bits 8), in the same kernels and "
        f"as large, loses {lost_a8:.1f} points before any fine-tuning, {bits} {lost:.1f} after it: fewer activation "
        "bits gain nothing on INT8 hardware, and are for hardware that computes with them."
    )


def _against_eight(rows: list[ComparisonRow], target: str, bits: str, runtime: str) -> str:
    """Beside W8A8 and float."""
    by_name = {row.name: row for row in rows}
    plain, eight, ours = by_name[FLOAT32], by_name[W8A8], by_name[target]
    lost, lost_eight = plain.top1 - ours.top1, plain.top1 - eight.top1
    if bits == "W8A8":
        return f"{bits} loses {lost:.1f} points against float."
    if runtime == "onnxruntime-tensorrt" and ours.milliseconds is not None:
        return (
            f"{bits} loses {lost:.1f} points, W8A8 {lost_eight:.1f}; {target} was timed on the GPU, W8A8 on the "
            "CPU: their times do not compare, and both would run in the same INT8 kernels."
        )
    if plain.milliseconds is None or eight.milliseconds is None or ours.milliseconds is None:
        return f"{bits} loses {lost:.1f} points, W8A8 {lost_eight:.1f}; how fast they are is measured on the device."
    speed = eight.milliseconds / ours.milliseconds
    fastest_of_ours = min(eight.milliseconds, ours.milliseconds)
    if fastest_of_ours > 1.1 * plain.milliseconds:
        return (
            f"float32 is {fastest_of_ours / plain.milliseconds:.1f}x as fast as either here: quantize this network for "
            f"size, not for speed ({bits} loses {lost:.1f} points, W8A8 {lost_eight:.1f})."
        )
    if speed > 1.1:
        return f"{bits} is {speed:.1f}x as fast as W8A8 and loses {lost:.1f} points (W8A8: {lost_eight:.1f})."
    pace = "as fast" if speed > 0.9 else f"{1 / speed:.1f}x as fast"
    if lost_eight + 0.05 < lost:
        return (
            f"W8A8 is {pace} here and loses {lost_eight:.1f} points where {bits} loses {lost:.1f}: "
            f"ship W8A8 unless size counts ({bits}'s file is {ours.bytes / eight.bytes:.2f} of its; both run in INT8 "
            "kernels)."
        )
    if speed > 0.9:
        return f"{bits} is no less accurate than W8A8 here and as fast: it loses {lost:.1f} points against float."
    return f"W8A8 is {pace} here, and {bits} no less accurate: it loses {lost:.1f} points against float."
