"""One run in memory: what every stage needs, made once."""

import hashlib
import platform
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch

from intraq_deploy import __version__
from intraq_deploy.data import UnlabelledImages, load_unlabelled
from intraq_deploy.graph import Graph, trace
from intraq_deploy.models import Model
from intraq_deploy.pipeline.devices import choose_device
from intraq_deploy.pipeline.options import QuantizeOptions
from intraq_deploy.pipeline.progress import Progress
from intraq_deploy.pipeline.recipes import recipe_for
from intraq_deploy.pipeline.report import MixedRecord, bits_label
from intraq_deploy.pipeline.rundir import RunDirectory
from intraq_deploy.pipeline.schemes import constraints_of
from intraq_deploy.program import float_program
from intraq_deploy.quantization.build import prepare
from intraq_deploy.quantization.scheme import Scheme, make_scheme
from intraq_deploy.recipes import Recipe, builtin, check
from intraq_deploy.synthesis.make import probe_of
from intraq_deploy.synthesis.probe import Probe
from intraq_deploy.targets.profile import TargetProfile, load_profile
from intraq_deploy.training.teacher import Teacher


@dataclass
class Run:
    """Options, directory and watcher of one run, and what follows from them, made on first use."""

    options: QuantizeOptions
    directory: RunDirectory
    model: Model
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage."""
    mixed: MixedRecord | None = None
    """Weight bits by layer, once they are chosen."""

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.options.device)

    @cached_property
    def traced(self) -> Graph:
        """The network as it was given."""
        return trace(self.model.module, self.model.input_shape)

    @cached_property
    def graph(self) -> Graph:
        """The same function, as it is quantized."""
        return prepare(self.traced, self.recipe.quantization)

    @cached_property
    def teacher(self) -> Teacher:
        return Teacher(self.graph).to(self.device)

    @property
    def scheme(self) -> Scheme:
        o = self.options
        scheme = make_scheme(o.scheme, o.weight_bits, o.activation_bits, constraints_of(o.targets, o.own_targets))
        scheme = scheme.with_ranges(self.recipe.quantization.ranges)
        return scheme if self.mixed is None else replace(scheme, layer_bits=self.mixed.layers)

    def profile(self, target: str) -> TargetProfile:
        """Of a built-in target, or of one of the person's own. Raises UsageError for neither."""
        return load_profile(target, self.options.own_targets)

    @property
    def bits(self) -> str:
        """ "W4A4", "W4/8A4"."""
        return bits_label(self.options.weight_bits, self.options.activation_bits, self.mixed)

    @cached_property
    def probe(self) -> Probe:
        return probe_of(self.model, self.device)

    @cached_property
    def calibration(self) -> UnlabelledImages | None:
        """A person's own images, which then stand in for synthetic ones."""
        o = self.options
        if o.calibration is None:
            return None
        return load_unlabelled(o.calibration, self.model, self.recipe.synthesis.images, o.seed)

    @cached_property
    def recipe(self) -> Recipe:
        o, m = self.options, self.model
        file = builtin(o.preset) if o.recipe is None else check(o.recipe.name, o.recipe.values)
        steps = 0 if o.method == "ptq" else o.steps
        return recipe_for(
            file,
            m.input_shape,
            m.classes,
            images=o.images,
            iterations=o.iterations,
            steps=steps,
            reconstruct=o.reconstruct,
        )

    @property
    def ranges_only(self) -> bool:
        """Whether nothing is trained: neither fine-tuning nor reconstruction."""
        return not self.recipe.training.steps and not self.recipe.reconstruction.enabled

    @cached_property
    def network_sha256(self) -> str:
        """Of what the network computes and of its stored statistics: other code around the same tensors is another
        network."""
        computes = float_program(self.traced).sha256
        return hashlib.sha256(f"{computes} {self.weights_sha256}".encode()).hexdigest()

    @cached_property
    def weights_sha256(self) -> str:
        """Of every tensor of the network, in order."""
        digest = hashlib.sha256()
        for name, tensor in self.model.module.state_dict().items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return digest.hexdigest()


def machine() -> str:
    """The CPU, for people and because runtimes choose their kernels by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of what computes a run."""
    return {
        "intraq-deploy": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
    }
