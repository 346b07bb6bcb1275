"""A network quantized with ranges only, and its integers compared in ONNX Runtime: what several benchmarks share."""

import tempfile
from pathlib import Path

import torch

from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.schemes import SchemeChoice
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.profile import load_profile


def quantized_from_noise(module, shape, bits, count):
    """Quantizes a network in eval mode with `count` noise images [C, H, W], and returns its Program and parity."""
    images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    student = build_network(trace(module, shape), SchemeChoice("integer", ("onnxruntime",)).at(bits, bits), images, 0)
    settle(student)
    program = freeze(student)
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(program, load_profile("onnxruntime"), Path(folder), {})
        return program, validate(artifact, program, images).parity
