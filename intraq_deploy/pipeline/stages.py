"""The stages, each resumable: synthesis (or calibration), fine-tuning, freezing, export."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from intraq_deploy.data import UnlabelledImages
from intraq_deploy.errors import DataError, RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.models import Model
from intraq_deploy.models.wording import reason
from intraq_deploy.pipeline.pseudo_labels import pseudo_labelled
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import Stage, key_of, tensor_sha256
from intraq_deploy.program import Normalization, Program, freeze, load_program, save_program, settle
from intraq_deploy.quantization.build import build_network, empty_network
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.recipes import Recipe
from intraq_deploy.synthesis.batches import batch_sizes
from intraq_deploy.synthesis.contact_sheet import contact_sheet
from intraq_deploy.synthesis.make import make_images
from intraq_deploy.synthesis.quality import Quality, measure
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.artifact import Artifact, read_manifest
from intraq_deploy.targets.onnx.export import lowered, write
from intraq_deploy.targets.tensorrt.implicit import add_cache
from intraq_deploy.training.blocks import blocks
from intraq_deploy.training.checkpoint import load_checkpoint, load_student, save_checkpoint, save_student
from intraq_deploy.training.correction import correct
from intraq_deploy.training.loop import Trainer
from intraq_deploy.training.reconstruction import reconstruct

SYNTHESIS, CALIBRATION, FINE_TUNING, FREEZING = "synthesis", "calibration", "fine-tuning", "program"
_CHECKPOINT_STEPS = 50
_RECONSTRUCTED, _CHECKPOINT = "reconstructed.safetensors", "checkpoint.safetensors"
"""What an unfinished fine-tuning continues from."""
T = TypeVar("T")


@contextmanager
def running(run: Run, name: str, key: str, total: int, unit: str) -> Iterator[tuple[Stage, Callable[[], None]]]:
    """Opens a stage that is not finished, and tells the watcher of its beginning and end."""
    stage = run.directory.stage(name, key)
    run.progress.start(name, total, unit)
    with run.directory.running(stage) as note:
        yield stage, note
    run.seconds[name] = stage.seconds
    run.progress.finish(name, stage.seconds)


def kept(run: Run, name: str, key: str, load: Callable[[Path], T]) -> T | None:
    """What a finished stage left, as `load` reads it from its folder; None if it has to run (again). Until it
    does, what another key left stays."""
    if not run.directory.finished(name, key):
        return None
    stage = run.directory.stage(name, key)
    try:
        value = load(stage.folder)
    except (RunError, DataError) as damage:
        run.progress.warn(f"{name} is made again, because {damage}")
        stage.clear()
        return None
    run.progress.start(name, 0, "")
    run.seconds[name] = stage.seconds
    run.progress.finish(name, stage.seconds, cached=True)
    return value


def images_key(run: Run) -> str:
    """Of what the network is quantized with."""
    return synthesis_key(run) if run.calibration is None else calibration_key(run, run.calibration)


def calibration_key(run: Run, own: UnlabelledImages) -> str:
    """Of answered images: the network, every pixel (other files, another draw, another preprocessing make others), the
    kind of device."""
    return key_of(network=run.network_sha256, images=tensor_sha256(own.images), device=run.device.type)


def calibrate(run: Run, own: UnlabelledImages) -> SyntheticSet:
    """A person's own images, with the network's answers as labels; `sheet.png` shows them as the network sees them."""
    key = calibration_key(run, own)
    before = kept(run, CALIBRATION, key, kept_calibration)
    if before is not None:
        return before
    with running(run, CALIBRATION, key, len(own.images), "images") as (stage, _):
        images = pseudo_labelled(run.model, own.images, run.device)
        preprocessing = run.model.preprocessing
        write_atomically(stage.folder / "sheet.png", contact_sheet(images, preprocessing.mean, preprocessing.std))
        images.save(stage.folder / "images.safetensors")
    return images


def kept_calibration(folder: Path) -> SyntheticSet:
    """What a finished calibration left. Raises DataError for a damaged folder."""
    return SyntheticSet.load(folder / "images.safetensors")


def synthesis_key(run: Run) -> str:
    """Of the images: the network, what their values mean in pixels, the recipe, the seed, the kind of device."""
    preprocessing = run.model.preprocessing
    return key_of(
        network=run.network_sha256,
        shape=run.model.input_shape,
        pixels=[preprocessing.mean, preprocessing.std],
        recipe=asdict(run.recipe.synthesis),
        seed=run.options.seed,
        device=run.device.type,
    )


def synthesize(run: Run) -> tuple[SyntheticSet, Quality]:
    """The images, continued from the last finished batch, and their quality; `sheet.png` shows them."""
    recipe, key = run.recipe.synthesis, synthesis_key(run)
    sizes = batch_sizes(recipe)
    before = kept(run, SYNTHESIS, key, kept_images)
    if before is not None:
        return before
    with running(run, SYNTHESIS, key, sum(sizes) * recipe.iterations, "image-iterations") as (stage, note):
        done = _finished_batches(stage.folder, len(sizes))

        def keep(batch: int, part: SyntheticSet) -> None:
            part.save(_batch_file(stage.folder, batch))
            note()

        def report(batch: int, iteration: int, loss: float) -> None:
            before = sum(sizes[:batch]) * recipe.iterations
            where = f"batch {batch + 1}/{len(sizes)}, iteration {iteration}/{recipe.iterations}"
            run.progress.advance(before + sizes[batch] * iteration, where, loss)

        images = make_images(run.model, run.probe, recipe, run.options.seed, done=done, finished=keep, report=report)
        quality = measure(run.probe, images)
        preprocessing = run.model.preprocessing
        write_atomically(stage.folder / "sheet.png", contact_sheet(images, preprocessing.mean, preprocessing.std))
        write_atomically(stage.folder / "quality.json", json.dumps({**asdict(quality), "batches": len(sizes)}))
    return images, quality


def kept_images(folder: Path) -> tuple[SyntheticSet, Quality]:
    """What a finished synthesis left. Raises DataError or RunError for a damaged folder."""
    try:
        values = json.loads((folder / "quality.json").read_text())
        files = [_batch_file(folder, batch) for batch in range(values.pop("batches"))]
        quality = Quality(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{folder} holds no finished synthesis ({reason(error)}): run quantize again.") from error
    return SyntheticSet.concatenate([SyntheticSet.load(file) for file in files]), quality


def _batch_file(folder: Path, batch: int) -> Path:
    return folder / f"batch-{batch:04d}.safetensors"


def _finished_batches(folder: Path, count: int) -> list[SyntheticSet]:
    """The batches before the first missing one."""
    done = []
    for batch in range(count):
        if not _batch_file(folder, batch).exists():
            break
        done.append(SyntheticSet.load(_batch_file(folder, batch)))
    return done


def student_key(run: Run) -> str:
    """Of the student: the images, the scheme, the recipe, the seed, on which a person's own images do not depend."""
    recipe = run.recipe
    how = {"quantization": asdict(recipe.quantization), "training": asdict(recipe.training)}
    if recipe.reconstruction.enabled:
        how["reconstruction"] = asdict(recipe.reconstruction)
    return key_of(images=images_key(run), scheme=asdict(run.scheme), recipe=how, seed=run.options.seed)


def fine_tune(run: Run, images: SyntheticSet) -> tuple[FakeQuantNetwork, list[str]]:
    """The settled student, reconstructed if the recipe says so, continued from the last checkpoint, and what settling
    adjusted."""
    key, recipe = student_key(run), run.recipe
    before = kept(run, FINE_TUNING, key, lambda folder: kept_student(run, folder))
    if before is not None:
        return before
    with running(run, FINE_TUNING, key, fine_tuning_images(recipe), "images") as (stage, note):
        student = build_network(run.graph, run.scheme, images.images, run.options.seed)
        if recipe.reconstruction.enabled:
            _reconstruct(run, student, images, stage.folder / _RECONSTRUCTED, note)
        checkpoint = stage.folder / _CHECKPOINT
        if recipe.quantization.correct and not checkpoint.exists():
            _correct(run, student, images)
        if recipe.training.steps:
            _train(run, student, images, checkpoint, note)
        student = student.cpu()
        settled = [f"{adjustment.name}: {adjustment.what}" for adjustment in settle(student)]
        save_student(stage.folder / "student.safetensors", student, settled=settled)
        for left in (_RECONSTRUCTED, _CHECKPOINT):
            (stage.folder / left).unlink(missing_ok=True)
    return student, settled


def fine_tuning_images(recipe: Recipe) -> int:
    """How many images go through the student, reconstruction included: a step in each of the blocks goes through all
    of it once."""
    return _reconstruction_images(recipe) + recipe.training.steps * recipe.training.batch


def _reconstruction_images(recipe: Recipe) -> int:
    return recipe.reconstruction.steps * recipe.reconstruction.batch if recipe.reconstruction.enabled else 0


def kept_student(run: Run, folder: Path) -> tuple[FakeQuantNetwork, list[str]]:
    """What a finished fine-tuning left. Raises RunError for a damaged folder."""
    student = empty_network(run.graph, run.scheme)
    try:
        notes = load_student(folder / "student.safetensors", student)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise RunError(f"{folder} holds no finished student ({reason(error)}): run quantize again.") from error
    return student, list(notes["settled"])


def _reconstruct(
    run: Run, student: FakeQuantNetwork, images: SyntheticSet, done: Path, note: Callable[[], None]
) -> None:
    """Once: `done` is what an earlier session reconstructed."""
    if done.exists():
        load_student(done, student)
        return
    recipe, count = run.recipe.reconstruction, len(blocks(run.graph))

    def report(block: int, step: int, error: float) -> None:
        before = (block * recipe.steps + step) * recipe.batch // count
        run.progress.advance(before, f"block {block + 1}/{count}, step {step}/{recipe.steps}", error)

    reconstruct(student, run.teacher, images, recipe, run.options.seed, run.device, report)
    save_student(done, student)
    note()


def _correct(run: Run, student: FakeQuantNetwork, images: SyntheticSet) -> None:
    def report(layer: int, count: int) -> None:
        run.progress.advance(_reconstruction_images(run.recipe), f"correcting layer {layer}/{count}")

    correct(student, run.teacher, images, run.options.seed, run.device, report)


def _train(
    run: Run, student: FakeQuantNetwork, images: SyntheticSet, checkpoint: Path, note: Callable[[], None]
) -> None:
    recipe, before = run.recipe.training, _reconstruction_images(run.recipe)
    trainer = Trainer(student, run.teacher, images, recipe, run.options.seed, run.device)
    if checkpoint.exists():
        load_checkpoint(checkpoint, trainer)

    def report(step: int, loss: float) -> None:
        run.progress.advance(before + step * recipe.batch, f"step {step}/{recipe.steps}", loss)

    while trainer.step < recipe.steps:
        trainer.run(min(trainer.step + _CHECKPOINT_STEPS, recipe.steps), report)
        save_checkpoint(checkpoint, trainer)
        note()


def freeze_student(run: Run, student: FakeQuantNetwork) -> Program:
    """The program."""
    normalization = normalization_of(run)
    key = key_of(student=student_key(run), normalization=normalization)
    before = kept(run, FREEZING, key, load_program)
    if before is not None:
        return before
    with running(run, FREEZING, key, 1, "") as (stage, _):
        program = freeze(student, normalization)
        save_program(program, stage.folder)
    return program


def normalization_of(run: Run) -> Normalization | None:
    """What a program that takes uint8 images does to them first."""
    preprocessing = run.model.preprocessing
    return None if run.options.input == "float" else Normalization.of(preprocessing.mean, preprocessing.std)


def export(run: Run, target: str, program: Program) -> Artifact:
    """The artifact of one target, with a calibration cache beside where it takes one and nothing was trained: training
    fits weights to the program's own grids, and implicit quantization chooses its own for them."""
    profile = run.profile(target)
    name = f"targets/{target}"
    metadata = model_metadata(run.model) | {"scheme": run.options.scheme, "bits": run.bits}
    cached = profile.calibration_cache is not None and run.ranges_only
    key = key_of(program=program.sha256, profile=profile.model_dump(), metadata=metadata, cached=cached)
    before = kept(run, name, key, whole_artifact)
    if before is not None:
        return before
    made = lowered(program, profile, metadata)  # what is refused leaves the file that is there
    with running(run, name, key, 1, "") as (stage, _):
        artifact = write(made, stage.folder)
        return add_cache(artifact, program, profile, metadata) if cached else artifact


def whole_artifact(folder: Path) -> Artifact:
    """Raises RunError if the file is not what its manifest says."""
    artifact = read_manifest(folder)
    artifact.verify()
    return artifact


def model_metadata(model: Model) -> dict[str, str]:
    """What a model file says of itself: enough to feed it and to name its answers."""
    preprocessing = model.preprocessing
    values = {
        "architecture": model.architecture,
        "mean": json.dumps(preprocessing.mean),
        "std": json.dumps(preprocessing.std),
        "resize": json.dumps(preprocessing.resize),
        "interpolation": preprocessing.interpolation,
    }
    return values if model.class_names is None else values | {"classes": json.dumps(model.class_names)}
