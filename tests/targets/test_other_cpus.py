"""ONNX Runtime on other CPUs, emulated: x86-64 without VNNI, whose products are added in 16 bits, and arm64."""

from dataclasses import replace

import emulation
import pytest
import torch
from intraq_deploy.targets.onnx.lint import lint
from intraq_deploy.targets.onnx.lower import lower
from intraq_deploy.targets.profile import load_profile
from support import SMALL_SHAPE, random_images, realistic
from torch import nn

from intraq_deploy.graph import trace
from intraq_deploy.program import arithmetic, freeze, settle
from intraq_deploy.program.program import Grid
from intraq_deploy.quantization import make_scheme
from intraq_deploy.quantization.build import build_network

ANY, AVX2, ARM64 = (load_profile(name) for name in ("onnxruntime", "onnxruntime-avx2", "onnxruntime-arm64"))
PLAIN = AVX2.model_copy(update={"vnni": True})
"""Signed weights of any size."""
IMAGES = random_images(8, seed=5)
LARGEST = IMAGES.sign() * 4
"""Every image code is the least or the greatest."""


def program_of(module):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = realistic(module(), SMALL_SHAPE)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(layer.weight.sign())
    built = build_network(trace(network, SMALL_SHAPE), make_scheme("integer", 8, 8), LARGEST, 0)
    settle(built)
    return freeze(built)


def depthwise():
    """Three kinds of depthwise convolutions, each with all its weights at the greatest code."""
    return nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1, groups=3),
        nn.Conv2d(3, 3, 5, stride=2, groups=3),
        nn.Conv2d(3, 3, (1, 3), dilation=2, groups=3),
        nn.Flatten(),
        nn.Linear(3 * 14 * 10, 5),
    )


def plain():
    """Two convolutions, each with all its weights at the greatest code."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(7), nn.Flatten(), nn.Linear(128, 5)
    )


def within(program, limit, only=None):
    """With weight codes beyond `limit` cut, in layers named by `only` or all."""
    layers = {
        name: replace(weights, codes=weights.codes.clamp(-limit, limit)) if only in (None, name) else weights
        for name, weights in program.layers.items()
    }
    return replace(program, layers=layers)


def unsigned(program):
    """With the whole byte behind ReLU."""
    grids = {
        name: replace(grid, code_max=255, scale=grid.scale / 2) if (grid.code_min, grid.code_max) == (0, 127) else grid
        for name, grid in program.grids.items()
    }
    return replace(program, grids=grids)


SMALL = [(network, w, a) for network in ("resnet", "mobilenet") for w, a in ((4, 4), (4, 8), (8, 8))]


def small(case):
    network, weight_bits, activation_bits = case
    return f"{network}-W{weight_bits}A{activation_bits}"


@pytest.fixture(scope="module")
def on_haswell(frozen, tmp_path_factory):
    emulator, folder = emulation.haswell(), tmp_path_factory.mktemp("haswell")
    cases = {
        case: emulation.write(frozen(case[0], "integer", *case[1:])[1], ANY, IMAGES, folder / small(case))
        for case in SMALL
    }
    for network in ("resnet", "mobilenet"):
        program = within(frozen(network, "integer", 8, 8)[1], 64)
        cases[f"{network} within 64"] = emulation.write(program, AVX2, IMAGES, folder / f"{network}-64")
    largest, channels = program_of(plain), program_of(depthwise)
    last = channels.graph.output
    cases |= {
        "largest": emulation.write(largest, PLAIN, LARGEST, folder / "largest"),
        "largest, weights unsigned": emulation.write(unsigned(largest), ANY, LARGEST, folder / "unsigned"),
        "largest within 64": emulation.write(within(unsigned(largest), 64), AVX2, LARGEST, folder / "largest-64"),
        "largest within 65": emulation.write(within(unsigned(largest), 65), PLAIN, LARGEST, folder / "largest-65"),
        "depthwise": emulation.write(within(channels, 64, last), AVX2, LARGEST, folder / "depthwise"),
    }
    emulation.run(emulator, cases.values())
    return cases


@pytest.mark.haswell
@pytest.mark.parametrize("case", SMALL, ids=small)
def test_without_vnni_one_file_for_all_cpus_is_equal(on_haswell, case):
    found = emulation.parity(on_haswell[case])
    assert found.compared > 100_000
    assert (found.mismatched, found.logits_difference) == (0, 0)


@pytest.mark.haswell
@pytest.mark.parametrize(
    "case", ["resnet within 64", "mobilenet within 64", "largest, weights unsigned", "largest within 64", "depthwise"]
)
def test_without_vnni_what_the_linter_lets_through_is_equal(on_haswell, case):
    found = emulation.parity(on_haswell[case])
    assert found.compared > 30_000
    assert (found.mismatched, found.logits_difference) == (0, 0)
    assert set(emulation.integer_kernels(on_haswell[case])) >= {"QGemm", "QLinearConv"}


@pytest.mark.haswell
@pytest.mark.parametrize("case", ["largest", "largest within 65"])
def test_without_vnni_what_the_linter_finds_is_wrong(on_haswell, case):
    """So the tests beside this one can fail."""
    program = on_haswell[case].program
    assert lint(lower(program, PLAIN, {}), AVX2)
    assert emulation.parity(on_haswell[case]).mismatched > 100
