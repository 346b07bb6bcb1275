"""Every stage that computes on a GPU, rehearsed without one: as a program, since it changes torch for its process.

    python tests/rehearsed_gpu.py

torch's FakeTensorMode runs a module on a device that is not here: shapes, types and devices are worked out, and nothing
is computed. So a tensor that was left on the CPU, a generator of another device, or `numpy()` on the wrong side fails
as on a GPU. The device is a made-up one, "gpu", because autograd asks CUDA's driver. Values that are read are stubs:
numbers are one half, or one; conditions hold. Prints a line of JSON: what each stage raised, or null.
"""

import copy
import json
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

sys.path.append(str(Path(__file__).parent))
from support import SMALL_SHAPE, model_of, random_images

from intraq_deploy.graph.trace import trace
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.quantization.sensitivity import layer_losses, logits_of
from intraq_deploy.quantization.spec import weight_spec
from intraq_deploy.recipes import builtin
from intraq_deploy.synthesis.make import make_images, probe_of
from intraq_deploy.synthesis.pseudo_labels import pseudo_labelled
from intraq_deploy.synthesis.quality import measure_quality
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training import compensation
from intraq_deploy.training.noise import signal_to_noise
from intraq_deploy.training.student import StudentTraining
from intraq_deploy.training.teacher import Teacher

GPU, _AUTOCAST = "gpu", "AutocastPrivateUse1"


class _Backend(_DummyBackendModule):
    """The made-up device's module: autocast asks it for types."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


class Rehearsal(FakeTensorMode):
    """Fake tensors whose values may be read: they are stubs."""

    avoid_device_init = property(lambda _: True)

    def dispatch(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs or {}))
        if any(isinstance(each, torch.Generator) for each in leaves):
            places = [each.device for each in leaves if isinstance(each, torch.Tensor)]
            places += [each for each in leaves if isinstance(each, torch.device)]
            if any(place.type != "cpu" for place in places):
                raise RuntimeError(f"{func} draws on {places[0]} with a generator of the CPU")
        if func is torch.ops.aten._local_scalar_dense.default:
            kind = args[0].dtype
            return True if kind == torch.bool else 0.5 if kind.is_floating_point else 1
        if func is torch.ops.aten.bincount.default:  # its size depends on values; with `minlength` ours does not
            _, weights, least = (*args, None, 0)[:3]
            least = (kwargs or {}).get("minlength", least)
            kind = torch.int64 if weights is None else weights.dtype
            return torch.empty(least, dtype=kind, device=args[0].device)
        if func is torch.ops.aten._unique2.default:  # as of equal values
            return args[0][:1], torch.zeros_like(args[0]), torch.ones_like(args[0])[:1]
        if func is torch.ops.aten.nonzero.default:  # two are found: some stages want pairs
            return torch.empty(2, args[0].dim(), dtype=torch.int64, device=args[0].device)
        return super().dispatch(func, types, args, kwargs)


def _statistics(x, mean, variance, momentum):
    """The shapes of what `batch_norm_update_stats` returns; torch has no fake implementation of it."""
    kind = x.dtype if mean is None else mean.dtype
    return tuple(torch.empty(x.shape[1], dtype=kind, device=x.device) for _ in range(2))


def _autocast(operator):
    """Returns the operator with its tensors in bfloat16, as autocast of CUDA has it."""

    def low(*args):
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _AUTOCAST))):
            return operator(*(each.bfloat16() if isinstance(each, torch.Tensor) else each for each in args))

    return low


def _moved(module, change, recurse=True):
    """nn.Module._apply with new parameters in place of old ones: fake ones cannot be swapped."""
    for child in module.children():
        child._apply(change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(change(parameter.detach()), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def prepare_torch():
    """Registers the device and what torch lacks for it, and returns what must be kept alive."""
    _setup_privateuseone_for_python_backend(GPU, _Backend())
    library = torch.library.Library("aten", "IMPL")
    library.impl("batch_norm_update_stats", _statistics, "Meta")
    library.impl("conv2d", _autocast(torch.ops.aten.conv2d.default), _AUTOCAST)
    library.impl("linear", _autocast(torch.ops.aten.linear.default), _AUTOCAST)
    others = torch.library.Library("_", "IMPL", _AUTOCAST)
    others.fallback(torch.library.fallthrough_kernel)
    nn.Module._apply = _moved
    deep = copy.deepcopy

    def deepcopy(value, memo=None):
        with unset_fake_temporarily():
            return deep(value, memo)

    copy.deepcopy = deepcopy
    return library, others


class Tiny(nn.Module):
    """A residual network of few columns: rounding goes through them one by one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.last(self.block(x)))
        return self.head(x.mean((2, 3)))


class Stages:
    """The stages by name: what they compute is on the GPU, unless it is for the rest of a run."""

    def __init__(self):
        self.device = torch.device(GPU)
        self.model = model_of(Tiny().eval(), SMALL_SHAPE, 10)
        self.graph = trace(self.model.module, self.model.input_shape)
        count = 16
        labels = torch.arange(count) % 10
        self.images = SyntheticSet(random_images(count), labels, torch.ones(count))
        self.recipe = builtin("quick").resolve(SMALL_SHAPE, 10)

    def student(self, ranges="learned"):
        scheme = make_scheme("integer", 4, 4)
        with unset_fake_temporarily():
            return build_network(self.graph, replace(scheme, ranges=ranges), self.images.images, 0)

    def teacher(self):
        return Teacher(self.graph).to(self.device)

    def synthesis(self, **changes):
        recipe = replace(self.recipe.synthesis, **{"images": 8, "batch": 4, "iterations": 2} | changes)
        probe = probe_of(self.model, self.device)
        assert probe.device.type == GPU
        made = make_images(self.model, probe, recipe, 0)
        assert made.images.device.type == "cpu"
        assert made.images.shape == (8, *SMALL_SHAPE)

    def training(self, *, ranges="learned", fitting=None, reconstruction=None, **changes):
        recipe = replace(
            self.recipe.student,
            fitting=replace(self.recipe.fitting, **{"compensate": False} | (fitting or {})),
            reconstruction=replace(self.recipe.reconstruction, **reconstruction or {}),
            training=replace(self.recipe.training, **{"steps": 2, "batch": 4} | changes),
        )
        student = self.student(ranges)
        StudentTraining(self.teacher(), self.images, recipe, 0, self.device).learn(student)
        for name, tensor in student.state_dict().items():
            assert tensor.device.type == GPU, name

    def quality(self):
        measure_quality(probe_of(self.model, self.device), self.images)

    def labels(self):
        assert pseudo_labelled(self.model, self.images.images, self.device).labels.device.type == "cpu"

    def sensitivity(self):
        network = self.student().to(self.device)
        logits = logits_of(network, self.images.images, self.device)
        assert logits.device.type == "cpu"
        specs = {node.name: weight_spec(3) for node in self.graph.layers()}
        layer_losses(network, specs, self.images.images, logits, self.device, lambda *_: None)

    def noise(self):
        student, teacher = self.student(), self.teacher()
        signal_to_noise(student, teacher.cpu(), self.images.images)

    def all(self):
        """Yields every stage with its name."""
        for name, changes in {
            "noise, plateau, variance": {"schedule": "plateau", "statistics": "variance"},
            "cosine, relative": {"statistics": "relative"},
            "crops": {"crop_probability": 1.0},
            "swing, low-pass, bounds": {"swing": True, "low_pass": 0.3, "bounded": True},
            "bfloat16": {"precision": "bfloat16"},
        }.items():
            yield f"synthesis: {name}", lambda changes=changes: self.synthesis(**changes)
        for name, changes in {
            "corrected": {},
            "compensated": {"fitting": {"compensate": True}},
            "reconstructed": {"reconstruction": {"enabled": True, "steps": 2, "batch": 4}},
            "min-max ranges": {"ranges": "minmax"},
            "bfloat16": {"precision": "bfloat16"},
            "SGD by steps": {"optimizer": "sgd", "schedule": "steps", "milestones": (0.5,), "rate_unit": "value"},
            "averages, oscillations": {"average": 0.9, "freeze_oscillations": 0.1},
            "features, cross-entropy": {"features": 1.0, "cross_entropy": 1.0, "mixup": False},
            "whole images": {"smallest_crop": 1.0},
        }.items():
            yield f"training: {name}", lambda changes=changes: self.training(**changes)
        for name in ("quality", "labels", "sensitivity", "noise"):
            yield name, getattr(self, name)


MISTAKES = {
    "a tensor that was left on the CPU": lambda: torch.ones(2, device=GPU) + torch.ones(2),
    "an array of the GPU's": lambda: torch.ones(2, device=GPU).numpy(),
    "a generator of the CPU's": lambda: torch.rand(2, device=GPU, generator=torch.Generator()),
}
"""What must fail, or the rehearsal says nothing."""


def main():
    kept = prepare_torch()
    compensation._FRACTIONS, compensation._AROUND = compensation._FRACTIONS[:2], compensation._AROUND[:2]
    stages, found = Stages(), {}
    for name, stage in [*stages.all(), *MISTAKES.items()]:
        with Rehearsal(allow_non_fake_inputs=True):
            try:
                stage()
            except Exception:
                found[name] = traceback.format_exc(limit=-6)
            else:
                found[name] = None
    del kept
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
