"""ONNX Runtime on other CPUs, emulated: x86-64 without VNNI, whose products are added in 16 bits, and arm64."""

from collections import Counter
from dataclasses import replace

import emulation
import pytest
import torch
import torch.nn.functional as F
from support import SMALL_SHAPE, random_images, realistic
from torch import nn

from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.schemes import constraints_of
from intraq_deploy.program import arithmetic
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.targets.onnx.lint import lint
from intraq_deploy.targets.onnx.lower import lower
from intraq_deploy.targets.profile import load_profile

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


class Gated(nn.Module):
    """SiLU, squeeze-and-excitation, HardSwish and an average over windows."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project, self.norm = nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.fc = nn.Linear(24, 5)

    def forward(self, x):
        x = F.silu(self.bn(self.conv(x)))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = F.hardswish(self.norm(self.project(x)))
        return self.fc(F.avg_pool2d(x, 2).mean((2, 3)))


GATES = {"QLinearLeakyRelu": 1, "QLinearMul": 3, "QLinearSigmoid": 2}


def gated(profile):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = realistic(Gated(), SMALL_SHAPE)
    scheme = make_scheme("integer", 4, 8, constraints_of((profile.name,)))
    built = build_network(trace(network, SMALL_SHAPE), scheme, random_images(32), 0)
    settle(built)
    return freeze(built)


def assert_gates_are_equal(case):
    found = emulation.parity(case)
    assert found.compared > 100_000
    assert (found.mismatched, found.logits_difference) == (0, 0)
    assert GATES.items() <= emulation.integer_kernels(case).items()


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


class Sum(nn.Module):
    """The sum of two channels, each quantized by itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 1, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)
        self.fc = nn.Linear(1, 2)

    def forward(self, x):
        return self.fc((self.a(x) + self.b(x)).mean((2, 3)))


PAIRS = torch.cartesian_prod(torch.arange(-128.0, 128), torch.arange(-128.0, 128)).T.reshape(1, 2, 256, 256)
"""Every pair of codes."""
SCALES = [(0.1, 0.1, 0.2), (0.25, 0.125, 0.5), (0.031, 0.047, 0.07), (0.1, 0.001, 0.1), (0.03, 0.09, 0.013)]


def sum_of(scales):
    """A program whose tensor `add` is the sum of all PAIRS, on these scales."""
    network = build_network(trace(Sum(), (2, 256, 256)), make_scheme("integer", 8, 8), PAIRS, 0)
    settle(network)
    program = freeze(network)
    values = dict(zip(("image", "a", "b", "add"), (1.0, *map(arithmetic.f32, scales)), strict=True))
    grids = {
        name: replace(grid, scale=values.get(name, grid.scale), code_min=-128, code_max=127)
        for name, grid in program.grids.items()
    }
    layers = dict(program.layers)
    for name, pick in (("a", [1, 0]), ("b", [0, 1])):  # with a multiplier of one
        codes = torch.tensor(pick, dtype=torch.int8).reshape(1, 2, 1, 1)
        layers[name] = replace(layers[name], codes=codes, scale=torch.tensor([values[name]]))
    return replace(program, grids=grids, layers=layers)


def assert_sums(case, form):
    """Every sum is what this form of it makes of the codes."""
    grids = [case.program.grids[name] for name in ("a", "b", "add")]
    a, b = PAIRS[0]
    assert torch.equal(emulation.codes(case)["add"][0, 0].float(), form(a, b, *grids))
    assert [tensor.name for tensor in emulation.parity(case).failures] in ([], ["add"])


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
    cases["gates"] = emulation.write(gated(ANY), ANY, IMAGES, folder / "gates")
    for scales in SCALES:
        cases[scales] = emulation.write(sum_of(scales), ANY, PAIRS, folder / str(scales))
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
def test_without_vnni_gates_are_equal_on_integer_kernels(on_haswell):
    assert_gates_are_equal(on_haswell["gates"])


@pytest.mark.haswell
@pytest.mark.parametrize("case", ["largest", "largest within 65"])
def test_without_vnni_what_the_linter_finds_is_wrong(on_haswell, case):
    """So the tests beside this one can fail."""
    program = on_haswell[case].program
    assert lint(lower(program, PLAIN, {}).model, AVX2)
    assert emulation.parity(on_haswell[case]).mismatched > 100


@pytest.mark.haswell
@pytest.mark.parametrize("scales", SCALES, ids=str)
def test_sums_on_x86_are_fused(on_haswell, scales):
    assert_sums(on_haswell[scales], arithmetic._add_fused)


@pytest.fixture(scope="module")
def on_arm64(frozen, student, tmp_path_factory):
    emulator, folder = emulation.arm64(), tmp_path_factory.mktemp("arm64")
    cases = {
        case: emulation.write(frozen(case[0], "integer", *case[1:])[1], ARM64, IMAGES, folder / small(case))
        for case in SMALL
    }
    settled, aligned = aligned_sum(student)
    largest, channels = program_of(plain), program_of(depthwise)
    cases |= {
        "largest": emulation.write(unsigned(largest), ARM64, LARGEST, folder / "largest"),
        "largest, weights unsigned": emulation.write(unsigned(largest), ANY, LARGEST, folder / "unsigned"),
        "depthwise": emulation.write(channels, ARM64, LARGEST, folder / "depthwise"),
        "aligned sum": emulation.write(aligned, ARM64, IMAGES, folder / "aligned"),
        "settled sum": emulation.write(settled, ARM64, IMAGES, folder / "settled"),
    }
    cases["gates"] = emulation.write(gated(ARM64), ARM64, IMAGES, folder / "gates")
    for scales in SCALES:
        cases[scales] = emulation.write(sum_of(scales), ARM64, PAIRS, folder / str(scales))
    emulation.run(emulator, cases.values())
    return cases


def aligned_sum(student):
    """A network with a sum of scales (s, s, 2s), settled; and the same without the nudge."""
    module = student()
    with torch.no_grad():
        for name, scale in (("layer1.conv2", 0.1), ("maxpool", 0.1), ("layer1.add", 0.2)):
            module.quantizer(name).scale.fill_(scale)
    settle(module)
    program = freeze(module)
    nudged = program.grids["layer1.add"]
    assert nudged.scale != arithmetic.f32(0.2)
    grids = {**program.grids, "layer1.add": replace(nudged, scale=arithmetic.f32(0.2))}
    return program, replace(program, grids=grids)


@pytest.mark.arm64
@pytest.mark.parametrize("case", SMALL, ids=small)
def test_arm64_is_equal_on_integer_kernels(on_arm64, case):
    found = emulation.parity(on_arm64[case])
    assert found.compared > 100_000
    assert (found.mismatched, found.logits_difference) == (0, 0)
    layers = Counter(type(node.op).__name__ for node in on_arm64[case].program.graph.nodes)
    assert emulation.integer_kernels(on_arm64[case]) == {
        "QGemm": 1,
        "QLinearAdd": layers["Add"],
        "QLinearConv": layers["Conv2d"],
        "QLinearGlobalAveragePool": 1,
    }


@pytest.mark.arm64
def test_arm64_gates_are_equal_on_integer_kernels(on_arm64):
    assert_gates_are_equal(on_arm64["gates"])


@pytest.mark.arm64
@pytest.mark.parametrize("case", ["largest", "largest, weights unsigned", "depthwise"])
def test_arm64_adds_products_in_32_bits(on_arm64, case):
    """The greatest weights on the greatest inputs, which saturate where products are added in 16 bits."""
    found = emulation.parity(on_arm64[case])
    assert found.compared > 30_000
    assert (found.mismatched, found.logits_difference) == (0, 0)


@pytest.mark.arm64
def test_arm64_rounds_ties_of_a_sum_otherwise_until_they_are_settled(on_arm64):
    aligned = emulation.parity(on_arm64["aligned sum"])
    assert [tensor.name for tensor in aligned.failures] == ["layer1.add"]
    assert aligned.mismatched > 100
    assert emulation.parity(on_arm64["settled sum"]).mismatched == 0


@pytest.mark.arm64
@pytest.mark.parametrize("scales", SCALES, ids=str)
def test_sums_on_arm64_are_in_fixed_point(on_arm64, scales):
    assert_sums(on_arm64[scales], arithmetic._add_fixed_point)
