"""One run in memory: what it is given, frozen, and what follows from that."""

import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from intraq_deploy.data.unlabelled import UnlabelledImages, load_unlabelled
from intraq_deploy.graph.graph import Graph
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.devices import choose_device, has_bfloat16
from intraq_deploy.pipeline.image_size import model_at
from intraq_deploy.pipeline.options import QuantizeOptions
from intraq_deploy.pipeline.probing import differentiable_probe
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.report import Bits, MixedRecord
from intraq_deploy.pipeline.rundir import RunDirectory
from intraq_deploy.pipeline.schemes import SchemeChoice
from intraq_deploy.program.freeze import float_program
from intraq_deploy.program.program import Normalization
from intraq_deploy.quantization.build import prepare
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.recipes import Recipe, builtin, check_recipe
from intraq_deploy.recipes.overrides import Overrides, recipe_for
from intraq_deploy.synthesis.probe import Probe
from intraq_deploy.targets.profile import TargetProfile, load_profile
from intraq_deploy.team import ALONE, Team
from intraq_deploy.version import __version__
from intraq_deploy.wording import listing


@dataclass(frozen=True)
class Run:
    """Everything that a run is given, and what follows from it, worked out on first use. Nothing in it is replaced."""

    options: QuantizeOptions
    place: "Callable[[Run], RunDirectory]"
    """Returns the directory of a run whose network is known."""
    model: Model
    progress: Progress
    team: Team = ALONE
    """The processes that make the run together."""

    @cached_property
    def directory(self) -> RunDirectory:
        """The directory in which the run is made or kept. Raises RunError where another run is in the way."""
        return self.place(self)

    @cached_property
    def device(self) -> torch.device:
        """The device that makes images and trains the student. Raises UsageError for one that is not here."""
        return choose_device(self.options.device)

    @cached_property
    def graph(self) -> Graph:
        """The graph of the network as it was given."""
        return trace(self.model.module, self.model.input_shape)

    def prepared(self, scheme: Scheme, images: Tensor) -> Graph:
        """Returns the graph as it is quantized by `scheme`: the same function. images: float32 [N, C, H, W],
        normalised."""
        return prepare(self.graph, self.recipe.quantization, scheme, images, self.options.seed)

    @cached_property
    def schemes(self) -> SchemeChoice:
        """The run's scheme at any bits."""
        o = self.options
        return SchemeChoice(
            o.scheme, o.made_for, o.own_targets, self.recipe.quantization.ranges, depthwise_bits=o.depthwise_bits
        )

    @property
    def bits(self) -> Bits:
        """The bits that were asked for."""
        o = self.options
        return Bits(weights=o.weight_bits, activations=o.activation_bits, depthwise=o.depthwise_bits)

    def scheme(self, mixed: MixedRecord | None) -> Scheme:
        """Returns the scheme of the student. mixed: the weight bits that were chosen layer by layer, if any."""
        layers = None if mixed is None else mixed.layers
        return self.schemes.at(self.options.weight_bits, self.options.activation_bits, layers)

    def profile(self, target: str) -> TargetProfile:
        """Returns the profile of a built-in target, or of a person's own. Raises UsageError for neither."""
        return load_profile(target, self.options.own_targets)

    @cached_property
    def image_model(self) -> Model:
        """The model with the input size of its synthetic images, which may be smaller."""
        return model_at(self.model, self.graph, self.recipe.synthesis.resolution)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the network is quantized with."""
        return self.image_model.input_shape if self.options.calibration is None else self.model.input_shape

    @cached_property
    def probe(self) -> Probe:
        """The reader of the network's batch norms, on the run's device. Raises UnsupportedModelError without any."""
        return differentiable_probe(self.image_model, lambda: self.graph, self.device)

    @cached_property
    def calibration(self) -> UnlabelledImages | None:
        """A person's own images, which stand in for synthetic ones. Raises DataError for images that cannot be used."""
        o = self.options
        if o.calibration is None:
            return None
        return load_unlabelled(o.calibration, self.model, self.recipe.synthesis.images, o.seed)

    @cached_property
    def calibration_sha256(self) -> str:
        """The hash of a person's own images, every pixel: other files, another draw or preprocessing have another."""
        assert self.calibration is not None
        return tensor_sha256(self.calibration.images)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe for this network, with the options' own numbers in it. Raises UsageError for what cannot be."""
        o, m = self.options, self.model
        file = builtin(o.preset) if o.recipe is None else check_recipe(o.recipe.name, o.recipe.values)
        steps = 0 if o.method == "ptq" else o.steps
        overrides = Overrides(images=o.images, iterations=o.iterations, steps=steps, reconstruct=o.reconstruct)
        recipe = recipe_for(file, m.input_shape, m.classes, overrides)
        return recipe.on(bfloat16=has_bfloat16(self.device))

    @property
    def ranges_only(self) -> bool:
        """Whether nothing is trained: neither fine-tuning nor reconstruction."""
        return not self.recipe.training.steps and not self.recipe.reconstruction.enabled

    @cached_property
    def normalization(self) -> Normalization | None:
        """The normalization of a program that takes uint8 images; None for one that takes floats."""
        preprocessing = self.model.preprocessing
        return None if self.options.input == "float" else Normalization.of(preprocessing.mean, preprocessing.std)

    @cached_property
    def network_sha256(self) -> str:
        """The hash of what the network computes and of its stored statistics: other code around the same tensors is
        another network."""
        computes = float_program(self.graph).sha256
        return hashlib.sha256(f"{computes} {self.weights_sha256}".encode()).hexdigest()

    @cached_property
    def weights_sha256(self) -> str:
        """The hash of every tensor of the network, in order."""
        digest = hashlib.sha256()
        for name, tensor in self.model.module.state_dict().items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return digest.hexdigest()


def tensor_sha256(tensor: Tensor) -> str:
    """Returns the hash of a tensor's values: any shape and dtype, on the CPU."""
    return hashlib.sha256(np.ascontiguousarray(tensor.numpy()).data).hexdigest()


def prepared(
    options: QuantizeOptions, place: Callable[[Run], RunDirectory], progress: Progress, team: Team = ALONE
) -> Run:
    """Returns the run of checked options. Its network is loaded, traced and read, so that what cannot work fails before
    anything is made.

    place, team: as Run's. Raises what loading, tracing and the recipe raise.
    """
    run = Run(options, place, options.model.load(), progress, team)
    # First the graph: a person's own images would not help a network that cannot be traced.
    _ = run.device, run.recipe, run.graph
    if options.calibration is None:
        _ = run.probe
    return run


def network_sentence(run: Run) -> str:
    """Returns what the network was taken for: the size of its images is no part of a checkpoint."""
    model, given = run.model, run.options.model
    sentence = (
        f"{model.architecture}: {model.classes:,} classes, images of {'x'.join(map(str, model.input_shape))}, "
        f"preprocessing: {model.preprocessing.source}."
    )
    options = {"--input-size": given.input_size, "--mean": given.mean, "--std": given.std}
    missing = [option for option, value in options.items() if value is None]
    if model.source.kind != "file" or not missing:
        return sentence
    return f"{sentence} If it was trained otherwise, give {listing(missing)}."


def machine() -> str:
    """Returns the name of the CPU, for people, and because runtimes choose their kernels by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Returns the versions of everything that computes a run, by name."""
    return {
        "intraq-deploy": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
    }
