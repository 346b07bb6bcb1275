"""The stages from images to the Program, each kept or made: images, fitting, fine-tuning, freezing."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.data.unlabelled import UnlabelledImages
from intraq_deploy.errors import RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.graph.graph import Graph
from intraq_deploy.pipeline.keeping import OpenStage, StageWork, kept_or_made, kept_or_prepared
from intraq_deploy.pipeline.run import Run, tensor_sha256
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.program import Program
from intraq_deploy.program.storage import load_program, save_program
from intraq_deploy.quantization.build import build_network, empty_network
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.synthesis.batches import batch_sizes
from intraq_deploy.synthesis.contact_sheet import contact_sheet
from intraq_deploy.synthesis.make import SetReport, make_images
from intraq_deploy.synthesis.pseudo_labels import pseudo_labelled
from intraq_deploy.synthesis.quality import Quality, measure_quality
from intraq_deploy.synthesis.recipe import SynthesisRecipe
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training.checkpoint import load_student, save_student
from intraq_deploy.training.noise import signal_to_noise
from intraq_deploy.training.student import StudentTraining, TrainingSession
from intraq_deploy.training.teacher import Teacher
from intraq_deploy.wording import reason

SYNTHESIS, CALIBRATION, FITTING, FINE_TUNING, FREEZING = (
    "synthesis",
    "calibration",
    "fitting",
    "fine-tuning",
    "program",
)
QUALITY_IMAGES = 128
"""The number of images, at most, whose quality is measured for comparison with synthetic ones."""
IMAGES_JOB = "images"
"""The job of a team that makes a set of images."""
_STUDENT, _NOISE = "student.safetensors", "noise.json"
_NOISE_PIXELS = 64 * 32 * 32
"""Pixels, in all, of the images that the noise of quantization is measured on: 64 images of CIFAR's size."""


@dataclass(frozen=True, slots=True)
class TrainedStudent:
    """A trained and settled student, and what is known of it."""

    network: FakeQuantNetwork
    settled: list[str]
    """The adjustments of settling, as "layer: adjustment"."""
    noise: dict[str, float | None]
    """The ratio of signal to quantization noise by tensor, in decibels, as `signal_to_noise` returns it."""


@dataclass(frozen=True, slots=True)
class RunImages:
    """The images that a run's network is quantized with, and the key of what made them."""

    images: SyntheticSet
    key: str


def images_inputs(run: Run, kept: SyntheticSet | None = None) -> dict[str, Any]:
    """Returns everything that decides the images that the network is quantized with, but for versions: the network,
    what the images' values mean in pixels, the recipe, the seed, the kind of device; or a person's own images.

    kept: these, as a run has kept them; None: as they are in their folder.
    """
    inputs = {"network": run.network_sha256, "device": run.device.type}
    if run.options.calibration is not None:
        return inputs | {"images": run.calibration_sha256 if kept is None else tensor_sha256(kept.images)}
    preprocessing = run.model.preprocessing
    return inputs | {
        "shape": run.image_model.input_shape,
        "pixels": [preprocessing.mean, preprocessing.std],
        "recipe": asdict(run.recipe.synthesis),
        "seed": run.options.seed,
    }


def images_key(run: Run, kept: SyntheticSet | None = None) -> str:
    """Returns the key of the images that the network is quantized with. kept: as in `images_inputs`."""
    return key_of(**images_inputs(run, kept))


def calibrate(run: Run, own: UnlabelledImages) -> SyntheticSet:
    """Returns a person's own images with pseudo-labels; `sheet.png` shows them as the network sees them."""

    def make(stage: OpenStage) -> SyntheticSet:
        images = pseudo_labelled(run.model, own.images, run.device)
        _write_sheet(run, images, stage)
        images.save(stage.folder / "images.safetensors")
        return images

    work = StageWork(CALIBRATION, images_key(run), len(own.images), "images")
    return kept_or_made(run, work, kept_calibration, make)


def kept_calibration(folder: Path) -> SyntheticSet:
    """Returns the images of a finished calibration. Raises DataError for a damaged folder."""
    return SyntheticSet.load(folder / "images.safetensors")


@dataclass(frozen=True, slots=True)
class SynthesizedImages:
    """Synthetic images and their quality."""

    images: SyntheticSet
    quality: Quality
    noise: Quality | None
    """The quality of noise in their place."""


def synthesize(run: Run) -> SynthesizedImages:
    """Returns the images, continued from the last finished batch; `sheet.png` shows them.

    Raises DivergedError for a loss that is not finite.
    """
    recipe = run.recipe.synthesis
    sizes = batch_sizes(recipe)

    def make(stage: OpenStage) -> SynthesizedImages:
        done = _finished_batches(stage.folder, len(sizes))
        run.team.call(IMAGES_JOB, done)

        def finished(batch: int, images: SyntheticSet) -> None:
            images.save(_batch_file(stage.folder, batch))
            stage.saved()

        report = synthesis_report(recipe, stage.advance)
        images = make_images(
            run.image_model,
            run.probe,
            recipe,
            run.options.seed,
            done=done,
            finished=finished,
            report=report,
            team=run.team,
        )
        made = SynthesizedImages(images, measure_quality(run.probe, images), _noise_quality(run, images))
        _write_sheet(run, images, stage)
        kept = {**asdict(made.quality), "batches": len(sizes), "noise": made.noise and asdict(made.noise)}
        write_atomically(stage.folder / "quality.json", json.dumps(kept))
        return made

    work = StageWork(SYNTHESIS, images_key(run), synthesis_work(recipe), "image-iterations", shared=True)
    return kept_or_made(run, work, kept_synthesis, make)


def _noise_quality(run: Run, images: SyntheticSet) -> Quality:
    """Returns the quality that noise has in the place of some of the images."""
    few = min(len(images), QUALITY_IMAGES)
    noise = torch.randn(images.images[:few].shape, generator=seeds.generator(run.options.seed, "noise for comparison"))
    return measure_quality(run.probe, SyntheticSet(noise, images.labels[:few], images.targets[:few]))


def synthesis_work(recipe: SynthesisRecipe) -> int:
    """Returns how many image-iterations a synthesis takes."""
    return sum(batch_sizes(recipe)) * recipe.iterations


def synthesis_report(recipe: SynthesisRecipe, advance: Callable[[int, str, float | None], None]) -> SetReport:
    """Returns a function that says how far a synthesis is. advance: what it says it to, as `Progress.advance`."""
    sizes = batch_sizes(recipe)

    def report(wave: list[int], iteration: int, loss: float) -> None:
        before = sum(sizes[: wave[0]]) * recipe.iterations
        beside = f" to {wave[-1] + 1}" if len(wave) > 1 else ""
        where = f"batch {wave[0] + 1}{beside}/{len(sizes)}, iteration {iteration}/{recipe.iterations}"
        advance(before + sum(sizes[batch] for batch in wave) * iteration, where, loss)

    return report


def kept_synthesis(folder: Path) -> SynthesizedImages:
    """Returns the images of a finished synthesis. Raises DataError or RunError for a damaged folder."""
    try:
        values = json.loads((folder / "quality.json").read_text())
        files = [_batch_file(folder, batch) for batch in range(values.pop("batches"))]
        noise = values.pop("noise", None)
        quality, reference = Quality(**values), None if noise is None else Quality(**noise)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{folder} holds no finished synthesis ({reason(error)}): run quantize again.") from error
    images = SyntheticSet.concatenate([SyntheticSet.load(file) for file in files])
    return SynthesizedImages(images, quality, reference)


def _write_sheet(run: Run, images: SyntheticSet, stage: OpenStage) -> None:
    mean, std = run.model.preprocessing.mean, run.model.preprocessing.std
    write_atomically(stage.folder / "sheet.png", contact_sheet(images.images, images.labels, mean, std))


def _batch_file(folder: Path, batch: int) -> Path:
    return folder / f"batch-{batch:04d}.safetensors"


def _finished_batches(folder: Path, count: int) -> dict[int, SyntheticSet]:
    """Returns the batches that are finished, by number."""
    files = {batch: _batch_file(folder, batch) for batch in range(count)}
    return {batch: SyntheticSet.load(file) for batch, file in files.items() if file.exists()}


def student_key(run: Run, scheme: Scheme, images_key: str) -> str:
    """Returns the key of the student: the images, the scheme, the recipe, the seed."""
    parts = ["quantization", "fitting", "training"]
    if run.recipe.reconstruction.enabled:
        parts.append("reconstruction")
    return _student_key(run, scheme, images_key, parts)


def fitted_key(run: Run, scheme: Scheme, images_key: str) -> str:
    """Returns the key of the student that is fitted and not trained yet."""
    return _student_key(run, scheme, images_key, ["quantization", "fitting"])


def _student_key(run: Run, scheme: Scheme, images_key: str, parts: list[str]) -> str:
    """Returns the key of a student. parts: those of the recipe that make it."""
    how = {name: asdict(getattr(run.recipe, name)) for name in parts}
    inputs: dict[str, Any] = {"images": images_key, "scheme": asdict(scheme), "recipe": how, "seed": run.options.seed}
    if "training" in parts and run.team.parts > 1:  # a step's gradients are summed part by part
        inputs["parts"] = run.team.parts
    return key_of(**inputs)


def fine_tune(run: Run, images: RunImages, scheme: Scheme) -> TrainedStudent:
    """Returns the trained and settled student, continued from the last checkpoint. It is fitted first, which is a stage
    of its own.

    Raises DivergedError for a loss that is not finite.
    """

    def prepare() -> Callable[[OpenStage], TrainedStudent]:
        graph = run.prepared(scheme, images.images.images)
        teacher = Teacher(graph).to(run.device)
        seed, device, team = run.options.seed, run.device, run.team
        training = StudentTraining(teacher, images.images, run.recipe.student, seed, device, team)
        fitted = _fitted(run, images, graph, scheme, training) if run.recipe.fitting.correct else None

        def make(stage: OpenStage) -> TrainedStudent:
            student = _calibrated(run, images, graph, scheme) if fitted is None else fitted
            session = TrainingSession(stage.folder, stage.saved, stage.advance)
            settled = [f"{adjustment.name}: {adjustment.what}" for adjustment in training.train(student, session)]
            save_student(stage.folder / _STUDENT, student, settled=settled)
            noise = signal_to_noise(student, teacher.cpu(), _few(images.images.images))
            write_atomically(stage.folder / _NOISE, json.dumps(noise))
            session.clear()
            return TrainedStudent(student, settled, noise)

        return make

    key = student_key(run, scheme, images.key)
    work = StageWork(FINE_TUNING, key, run.recipe.student.images, "images", shared=True)
    student = kept_or_prepared(run, work, lambda folder: kept_student(run, scheme, folder), prepare)
    fitted, directory = fitted_key(run, scheme, images.key), run.directory
    if FITTING not in directory.seconds and directory.finished(FITTING, fitted):  # a kept student was fitted too
        directory.seconds[FITTING] = directory.stage(FITTING, fitted).seconds
    return student


def _fitted(run: Run, images: RunImages, graph: Graph, scheme: Scheme, training: StudentTraining) -> FakeQuantNetwork:
    """Returns the student after the fitting of its layers, continued from the last layers that were saved. graph: the
    network as it is quantized."""

    def make(stage: OpenStage) -> FakeQuantNetwork:
        student = _calibrated(run, images, graph, scheme)
        session = TrainingSession(stage.folder, stage.saved, stage.advance)
        training.fit(student, session)
        save_student(stage.folder / _STUDENT, student)
        session.clear()
        return student

    work = StageWork(FITTING, fitted_key(run, scheme, images.key), len(list(graph.layers())), "layers", shared=True)
    return kept_or_made(run, work, lambda folder: _load_student(run, scheme, folder)[0], make)


def _calibrated(run: Run, images: RunImages, graph: Graph, scheme: Scheme) -> FakeQuantNetwork:
    """Returns the student with its ranges alone. graph: the network as it is quantized."""
    return build_network(graph, scheme, images.images.images, run.options.seed)


def _few(images: Tensor) -> Tensor:
    """Returns the first images, as many as have the pixels that noise is measured on; at least four."""
    return images[: max(4, _NOISE_PIXELS // (images.shape[2] * images.shape[3]))]


def kept_student(run: Run, scheme: Scheme, folder: Path) -> TrainedStudent:
    """Returns the student of a finished fine-tuning. Raises RunError for a damaged folder."""
    student, notes = _load_student(run, scheme, folder)
    noise: dict[str, float | None] = {}
    with suppress(OSError, ValueError):  # a figure for people: nothing is trained again for it
        noise = json.loads((folder / _NOISE).read_text())
    return TrainedStudent(student, list(notes["settled"]), noise)


def _load_student(run: Run, scheme: Scheme, folder: Path) -> tuple[FakeQuantNetwork, dict[str, Any]]:
    """Returns the student in a finished stage's folder, and what is noted beside it. Raises RunError for a damaged
    folder."""
    student = empty_network(run.graph, scheme)
    try:
        notes = load_student(folder / _STUDENT, student)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise RunError(f"{folder} holds no finished student ({reason(error)}): run quantize again.") from error
    return student, notes


def freeze_student(run: Run, student: FakeQuantNetwork, key: str) -> Program:
    """Returns the program of a settled student. key: the student's."""

    def make(stage: OpenStage) -> Program:
        program = freeze(student, run.normalization)
        save_program(program, stage.folder)
        return program

    work = StageWork(FREEZING, key_of(student=key, normalization=run.normalization))
    return kept_or_made(run, work, load_program, make)
