"""Whole ResNet-18 and MobileNetV2 through the command line: every integer, every kernel.

Their weights are random and their batch norms realistic: parity and kernels do not depend on what was learned. The
full size takes minutes per run: make test-slow.
"""

import json

import pytest
import torch
import torchvision
from support import realistic

KERNELS = {
    "resnet18": {"QLinearConv": 20, "QLinearAdd": 8, "QGemm": 1, "QLinearGlobalAveragePool": 1},
    "mobilenet_v2": {"QLinearConv": 52, "QLinearAdd": 10, "QGemm": 1, "QLinearGlobalAveragePool": 1},
}

UNFITTED = """
extends = "quick"
fitting.compensate = false
fitting.correct = false
"""
"""For 8 bits, which need no more than ranges: fitting ResNet-18's widest layers takes a minute."""


@pytest.fixture(scope="module", params=KERNELS)
def network(request, tmp_path_factory):
    """A torchvision network's name and a checkpoint of it."""
    file = tmp_path_factory.mktemp(request.param) / f"{request.param}.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = realistic(torchvision.models.get_model(request.param), (3, 224, 224))
    torch.save(module.state_dict(), file)
    return request.param, file


@pytest.mark.parametrize("size", [64, pytest.param(224, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_integer_and_every_kernel(run, network, bits, size, tmp_path):
    name, checkpoint = network
    budget = ["--images", "8", "--iterations", "2", "--steps", "0"]
    if bits == 8:
        recipe = tmp_path / "unfitted.toml"
        recipe.write_text(UNFITTED)
        budget += ["--recipe", recipe]
    arch = ["--arch", f"torchvision:{name}", "--input-size", size]
    result = run("quantize", checkpoint, *arch, "--bits", bits, *budget, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    parity = json.loads((tmp_path / "run" / "run.json").read_text())["parity"]["onnxruntime"]
    assert parity["integers_mismatched"] == 0
    assert parity["integers_compared"] > 500 * size**2
    assert parity["toleranced"] == []
    assert parity["integer_kernels"] == KERNELS[name]
    assert parity["float_kernels"] == {}
    assert parity["logits_equal"]
    assert parity["instrumented_equal"]
