"""Makes the ONNX files of one network: what a user has without us, and what we make of it."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measure import BATCH_DIMENSION
from torch import nn

from intraq_deploy.graph.graph import Graph
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.architecture import find_architecture
from intraq_deploy.pipeline.schemes import SchemeChoice
from intraq_deploy.program.freeze import float_program, freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnxruntime.static import quantize_static
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.wording import reason

BITS = ((4, 4), (4, 8), (8, 8))
TORCH, OURS, STATIC = "float32 (torch.onnx)", "float32 (ours)", "quantize_static"
IMAGES = "images.npy"
CALIBRATION_IMAGES = 8
_OPSET = 17


@dataclass(frozen=True, slots=True)
class File:
    """One ONNX file to be timed. model: its name in the results; profile: of ours, else ""."""

    model: str
    profile: str
    path: Path


@dataclass(frozen=True, slots=True)
class Made:
    """The files of one network, and why there are no others."""

    input_shape: tuple[int, int, int]
    files: list[File]
    missing: dict[tuple[str, str], str]
    """By model and profile."""


def make(network: str, profiles: Sequence[str], folder: Path) -> Made:
    """Writes the files into `folder`, which exists, and IMAGES: the calibration images, float32 [N, C, H, W].

    network: "torchvision:NAME" or "timm:NAME", with random weights and its own input size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        architecture = find_architecture(network)
        module = architecture.make(1000, 3)
    assert architecture.preprocessing is not None
    shape = (3, *architecture.preprocessing.input_size)
    realistic(module, shape)
    images = torch.randn(CALIBRATION_IMAGES, *shape, generator=torch.Generator().manual_seed(1))
    np.save(folder / IMAGES, images.numpy())

    float32, static = folder / "float32-torch.onnx", folder / "quantize_static.onnx"
    export_with_torch(module, images[:1], float32)
    quantize_static(float32, static, images)
    files = [File(TORCH, "", float32), File(STATIC, "", static)]
    wanted = [(OURS, ""), *((f"W{w}A{a}", profile) for profile in profiles for w, a in BITS)]
    missing: dict[tuple[str, str], str] = {}
    try:
        for file in _ours(trace(module, shape), images, profiles, folder):
            files.append(file)  # noqa: PERF402 - those made before a failure count
    except Exception as error:  # whatever one network meets, the others are still measured
        made = {(file.model, file.profile) for file in files}
        missing = {key: reason(error) for key in wanted if key not in made}
    return Made(shape, files, missing)


def realistic(module: nn.Module, shape: tuple[int, int, int]) -> None:
    """Random batch norms as training leaves them: gammas of both signs, and statistics of what really flows through."""
    generator = torch.Generator().manual_seed(0)
    module.eval().requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
            layer.reset_running_stats()
            layer.momentum = None  # a plain average
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.weight[::7] *= -1
            layer.bias.normal_(0, 0.3, generator=generator)
    for _ in range(2):
        module(torch.randn(8, *shape, generator=generator))
    module.eval()


def export_with_torch(module: nn.Module, image: torch.Tensor, path: Path) -> None:
    """By tracing: the newer exporter writes ReduceMean for global averages, which costs squeeze-and-excitation networks
    the blocked layout of ONNX Runtime's float convolutions."""
    names = {"input_names": ["image"], "output_names": ["logits"]}
    axes = {name: {0: BATCH_DIMENSION} for name in ("image", "logits")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (image,), path, dynamo=False, opset_version=_OPSET, dynamic_axes=axes, **names)


def _ours(graph: Graph, images: torch.Tensor, profiles: Sequence[str], folder: Path) -> Iterator[File]:
    """The float network, and ranges without fine-tuning at each width: speed does not depend on what was learned."""
    target = folder / "float32-ours"
    target.mkdir()
    yield File(OURS, "", export(float_program(graph), load_profile("onnxruntime"), target, {}).path)
    for weight_bits, activation_bits in BITS:
        for profile in profiles:
            suited = tuple(profile.split("+"))  # the first is what is measured
            scheme = SchemeChoice("integer", suited).at(weight_bits, activation_bits)
            student = build_network(graph, scheme, images, 0)
            settle(student)
            program = freeze(student)
            name = f"W{weight_bits}A{activation_bits}"
            target = folder / f"{name}-{profile}"
            target.mkdir()
            yield File(name, profile, export(program, load_profile(suited[0]), target, {}).path)
