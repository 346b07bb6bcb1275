"""The Python face: a few verbs over typed values. The command line's stages do the same with files in between.

model = load_model("builtin:resnet20-cifar10")
images = synthesize(model)  # or calibration_images(model, "photos" or a DataLoader)
student = quantize(model, images, weight_bits=4, activation_bits=4)
program = freeze(student)
artifact = export(program, "out", model=model)
result = validate(artifact, program, images)
accuracy = evaluate(artifact, "labelled", model=model)

What takes long shows its progress on a terminal and in a notebook; `progress=False` keeps it silent.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from intraq_deploy.data.iterables import first_images
from intraq_deploy.data.unlabelled import load_unlabelled
from intraq_deploy.errors import DataError, UsageError
from intraq_deploy.evaluation.accuracy import Accuracy
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.loading import load_model
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.bundle import BundleReport, bundle_run
from intraq_deploy.pipeline.devices import choose_device, has_bfloat16
from intraq_deploy.pipeline.display import shown_stage
from intraq_deploy.pipeline.evaluating import evaluate as evaluate_network
from intraq_deploy.pipeline.export import model_metadata
from intraq_deploy.pipeline.image_size import model_at
from intraq_deploy.pipeline.opening import Opening
from intraq_deploy.pipeline.options import MADE_FOR
from intraq_deploy.pipeline.probing import differentiable_probe
from intraq_deploy.pipeline.schemes import SchemeChoice, check_depthwise
from intraq_deploy.pipeline.stages import FINE_TUNING, FITTING, SYNTHESIS, synthesis_report, synthesis_work
from intraq_deploy.pipeline.targets import choose, choose_one, find_for
from intraq_deploy.pipeline.validation import Validation, parity_count, program_input
from intraq_deploy.pipeline.validation import validate as validate_images
from intraq_deploy.program.program import Program
from intraq_deploy.quantization.build import build_network, prepare
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.recipes import Recipe, RecipeFile, builtin, read
from intraq_deploy.recipes.overrides import Overrides, recipe_for
from intraq_deploy.synthesis.make import make_images
from intraq_deploy.synthesis.pseudo_labels import pseudo_labelled
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.artifact import Artifact
from intraq_deploy.targets.onnx.export import export as export_program
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.training.student import StudentTraining, TrainingSession
from intraq_deploy.training.teacher import Teacher

__all__ = [
    "bundle",
    "calibration_images",
    "evaluate",
    "export",
    "load_model",
    "quantize",
    "synthesize",
    "validate",
]


def recipe_file(recipe: str | Path) -> RecipeFile:
    """Returns a built-in recipe by its name, a person's own by its path. Raises UsageError for neither."""
    if not isinstance(recipe, str | Path):
        raise UsageError(
            f"The recipe is {recipe!r}, of type {type(recipe).__name__}: give the name of a built-in one, or the path "
            "of your own."
        )
    if isinstance(recipe, str) and not Path(recipe).suffix and Path(recipe).name == recipe:
        return builtin(recipe)
    return read(Path(recipe))


def _check(what: str, value: object, kind: type, maker: str) -> None:
    """Checks that a value is what one of the verbs makes. Raises UsageError for anything else."""
    if not isinstance(value, kind):
        raise UsageError(f"The {what} of type {type(value).__name__}: give what {maker} makes, a {kind.__name__}.")


def _recipe(recipe: str | Path, model: Model, overrides: Overrides, device: torch.device) -> Recipe:
    chosen = recipe_for(recipe_file(recipe), model.input_shape, model.classes, overrides)
    return chosen.on(bfloat16=has_bfloat16(device))


def synthesize(
    model: Model,
    *,
    recipe: str | Path = "quick",
    images: int | None = None,
    iterations: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> SyntheticSet:
    """Makes images from the network alone: float32 [N, C, H, W], normalised.

    recipe: the name of a built-in one, or the path of your own. images, iterations: override the recipe. device: auto,
    cpu or cuda. progress: whether it is shown, on a terminal or in a notebook.

    Raises UnsupportedModelError for a network without batch norm, DivergedError for a loss that is not finite.
    """
    _check("model is", model, Model, "load_model")
    where = choose_device(device)
    chosen = _recipe(recipe, model, Overrides(images=images, iterations=iterations), where).synthesis
    graph = cache(lambda: trace(model.module, model.input_shape))
    small = model_at(model, graph(), chosen.resolution) if chosen.resolution < 1 else model
    probe = differentiable_probe(small, graph, where)
    with shown_stage(progress, SYNTHESIS, synthesis_work(chosen), "image-iterations") as display:
        return make_images(small, probe, chosen, seed, report=synthesis_report(chosen, display.advance))


def calibration_images(
    model: Model,
    images: str | Path | Iterable[Any],
    *,
    recipe: str | Path = "quick",
    count: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> SyntheticSet:
    """Takes your own images in place of synthetic ones, with pseudo-labels: for networks without batch norm.

    images: a folder of images, searched through; an .npz with `images` uint8 [N, H, W, C]; a tensor [N, C, H, W] of any
    float dtype, normalised as the network takes it; or an iterable, such as a DataLoader, of such batches or of images
    [C, H, W]: alone, first in a tuple, or in a dictionary under "image", "images" or "pixel_values". No label is read.
    count: at most so many; overrides the recipe. Where files are more, `seed` draws which; a tensor or an iterable
    gives its first `count`, and is not read further, so let a loader shuffle.
    Raises DataError for images that cannot be used, UsageError for what holds none.
    """
    _check("model is", model, Model, "load_model")
    where = choose_device(device)
    chosen = _recipe(recipe, model, Overrides(images=count), where).synthesis
    if isinstance(images, str | Path):
        taken = load_unlabelled(images, model, chosen.images, seed).images
    else:
        taken = first_images(images, model, chosen.images)
    return pseudo_labelled(model, taken, where)


def quantize(
    model: Model,
    images: SyntheticSet,
    *,
    weight_bits: int = 4,
    activation_bits: int = 4,
    depthwise_bits: int | None = None,
    scheme: str = "integer",
    recipe: str | Path = "quick",
    steps: int | None = None,
    reconstruct: bool = False,
    targets: str | Path | tuple[str | Path, ...] = MADE_FOR,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> FakeQuantNetwork:
    """Returns the low-bit student, fine-tuned on `images` and settled, on the CPU.

    depthwise_bits: of depthwise layers' weights; None: weight_bits. steps: overrides the recipe; 0: no training.
    reconstruct: before fine-tuning, round each block's weights to what its output needs, as the recipe's reconstruction
    says; a recipe that does so by itself does not with steps=0. targets: the targets that it will be exported for:
    names of targets or devices, or paths of your own; some allow more than others; one may stand alone. Default: one
    network for ONNX Runtime and TensorRT. progress: whether it is shown, on a terminal or in a notebook.

    Raises UnsupportedModelError for a network that cannot be traced, DivergedError for a loss that is not finite,
    DataError for images that are not finite, UsageError for the reconstruction of min-max ranges, and for
    depthwise_bits that do not fit the network.
    """
    _check("model is", model, Model, "load_model")
    _check("images are", images, SyntheticSet, "synthesize")
    if not bool(images.images.isfinite().all()):
        raise DataError("The images have values that are not finite: make them again, or look for NaN in your own.")
    where = choose_device(device)
    chosen = _recipe(recipe, model, Overrides(steps=steps, reconstruct=reconstruct), where)
    chosen_targets = choose((targets,) if isinstance(targets, str | Path) else targets)
    schemes = SchemeChoice(
        scheme,
        chosen_targets.targets,
        chosen_targets.own,
        chosen.quantization.ranges,
        depthwise_bits=depthwise_bits,
    )
    placed = schemes.at(weight_bits, activation_bits)
    traced = trace(model.module, model.input_shape)
    check_depthwise(traced, depthwise_bits, weight_bits)
    graph = prepare(traced, chosen.quantization, placed, images.images, seed)
    student = build_network(graph, placed, images.images, seed)
    training = StudentTraining(Teacher(graph).to(where), images, chosen.student, seed, where)
    if chosen.fitting.correct:
        with shown_stage(progress, FITTING, len(list(graph.layers())), "layers") as display:
            training.fit(student, TrainingSession(report=display.advance))
    with shown_stage(progress, FINE_TUNING, chosen.student.images, "images") as display:
        training.train(student, TrainingSession(report=display.advance))
    return student


def export(
    program: Program, folder: str | Path, *, target: str | Path = "onnxruntime", model: Model | None = None
) -> Artifact:
    """Writes the program for `target` into `folder`, which is made. model: its class names and preprocessing go along.

    target: a name, or the path of your own. Raises UsageError for an unknown one, and for a device of several targets.
    """
    _check("program is", program, Program, "freeze")
    profile = load_profile(*choose_one(target))
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return export_program(program, profile, path, {} if model is None else model_metadata(model))


def validate(artifact: Artifact, program: Program, images: SyntheticSet, *, progress: bool = True) -> Validation:
    """Compares every quantized tensor of the artifact with the program's, on `images`. `.passes` is the gate.

    progress: whether it is shown, on a terminal or in a notebook.
    """
    _check("artifact is", artifact, Artifact, "export")
    _check("program is", program, Program, "freeze")
    _check("images are", images, SyntheticSet, "synthesize")
    given = program_input(program, images.images)
    with shown_stage(progress, "comparison", parity_count(program, len(given)), "images") as display:
        done = 0

        def compared(count: int) -> None:
            nonlocal done
            done += count
            display.advance(done, f"{done} images, every integer")

        return validate_images(artifact, program, given, compared=compared)


def evaluate(
    network: Model | FakeQuantNetwork | Program | Artifact,
    images: str | Path | Iterable[Any],
    *,
    model: Model | None = None,
    progress: bool = True,
) -> Accuracy:
    """Measures top-1 and top-5 on labelled images: of a model, a student, a program (by the reference, which is exact
    and not fast) or an artifact (in ONNX Runtime, also where the target has a runtime of its own).

    images: a folder with one folder of images per class, an .npz with `images` uint8 [N, H, W, C] and `labels`, or
    "builtin:cifar10-sample"; or an iterable, such as a DataLoader, of pairs (images, labels) or of dictionaries with
    them: batches [n, C, H, W] of any float dtype, normalised as the network takes them, and class indices [n], or one
    image [C, H, W] and its label. All of it is read.
    model: what the network was made from; it prepares files. progress: whether it is shown, on a terminal or in a
    notebook.
    Raises DataError for images or labels that cannot be used, UsageError for files without `model`.
    """
    return evaluate_network(network, images, model, progress=progress)


def bundle(
    run: str | Path,
    *,
    target: str | Path,
    out: str | Path | None = None,
    trust_pickle: bool = False,
    progress: bool = True,
) -> BundleReport:
    """Packs a finished run for a device that has no intraq-deploy, as `intraq-deploy bundle` does.

    run: its directory. target: the name of a device or a target, or the path of your own. out: the bundle's folder; its
    archive is written beside. Default: bundles/NAME in the run directory. `.shortfall` of the result says what the
    device would run best and could not be packed. trust_pickle: read a checkpoint that runs code.
    Raises RunError for what is no finished run, or one whose gate failed, TargetError where nothing can be packed,
    UsageError for an unknown device.
    """
    path = Path(run)
    opening = Opening(path, trust_pickle)
    opening.check()
    device = find_for(path, str(target))
    with shown_stage(progress, "bundle", 1, "") as display:
        return bundle_run(opening, device, None if out is None else Path(out), display)
