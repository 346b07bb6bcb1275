"""The Python face: a few verbs over typed values. The command line's stages do the same with files in between.

model = load_model("builtin:resnet20-cifar10")
images = synthesize(model)  # or calibration_images(model, "photos")
student = quantize(model, images, weight_bits=4, activation_bits=4)
program = freeze(student)
artifact = export(program, Path("out"), model=model)
result = validate(artifact, program, images)
"""

from functools import cache
from pathlib import Path

import torch

from intraq_deploy.data.unlabelled import load_unlabelled
from intraq_deploy.errors import DataError, UsageError
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.loading import load_model
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.devices import choose_device, has_bfloat16
from intraq_deploy.pipeline.export import model_metadata
from intraq_deploy.pipeline.image_size import model_at
from intraq_deploy.pipeline.options import MADE_FOR
from intraq_deploy.pipeline.probing import differentiable_probe
from intraq_deploy.pipeline.schemes import SchemeChoice, check_depthwise
from intraq_deploy.pipeline.targets import choose
from intraq_deploy.pipeline.validation import Validation, program_input
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
from intraq_deploy.training.student import StudentTraining
from intraq_deploy.training.teacher import Teacher

__all__ = ["calibration_images", "export", "load_model", "quantize", "synthesize", "validate"]


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
) -> SyntheticSet:
    """Makes images from the network alone: float32 [N, C, H, W], normalised. images, iterations: override the recipe.

    Raises UnsupportedModelError for a network without batch norm, DivergedError for a loss that is not finite.
    """
    _check("model is", model, Model, "load_model")
    where = choose_device(device)
    chosen = _recipe(recipe, model, Overrides(images=images, iterations=iterations), where).synthesis
    graph = cache(lambda: trace(model.module, model.input_shape))
    small = model_at(model, graph(), chosen.resolution) if chosen.resolution < 1 else model
    return make_images(small, differentiable_probe(small, graph, where), chosen, seed)


def calibration_images(
    model: Model,
    path: str | Path,
    *,
    recipe: str | Path = "quick",
    count: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> SyntheticSet:
    """Takes your own images in place of synthetic ones, with pseudo-labels: for networks without batch norm.

    path: a folder of images, searched through; or an .npz with `images` uint8 [N, H, W, C]. No label is read.
    count: at most so many, drawn with `seed` where there are more; overrides the recipe.
    Raises DataError for images that cannot be used.
    """
    _check("model is", model, Model, "load_model")
    where = choose_device(device)
    chosen = _recipe(recipe, model, Overrides(images=count), where).synthesis
    return pseudo_labelled(model, load_unlabelled(path, model, chosen.images, seed).images, where)


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
) -> FakeQuantNetwork:
    """Returns the low-bit student, fine-tuned on `images` and settled, on the CPU.

    depthwise_bits: of depthwise layers' weights; None: weight_bits. steps: overrides the recipe; 0: no training.
    reconstruct: before fine-tuning, round each block's weights to what its output needs, as the recipe's reconstruction
    says; a recipe that does so by itself does not with steps=0. targets: the targets that it will be exported for:
    names of targets or devices, or paths of your own; some allow more than others; one may stand alone. Default: one
    network for ONNX Runtime and TensorRT.

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
    StudentTraining(Teacher(graph).to(where), images, chosen.student, seed, where).train(student)
    return student


def export(
    program: Program, folder: str | Path, *, target: str | Path = "onnxruntime", model: Model | None = None
) -> Artifact:
    """Writes the program for `target` into `folder`, which is made. model: its class names and preprocessing go along.

    target: a name, or the path of your own. Raises UsageError for an unknown one, and for a device of several targets.
    """
    _check("program is", program, Program, "freeze")
    chosen = choose((target,))
    if len(chosen.targets) > 1:
        raise UsageError(f"{target} has several targets: give one of {', '.join(chosen.targets)}.")
    profile = load_profile(chosen.targets[0], chosen.own)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return export_program(program, profile, path, {} if model is None else model_metadata(model))


def validate(artifact: Artifact, program: Program, images: SyntheticSet) -> Validation:
    """Compares every quantized tensor of the artifact with the program's, on `images`. `.passes` is the gate."""
    return validate_images(artifact, program, program_input(program, images.images))
