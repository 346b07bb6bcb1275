"""Forms of layers that networks have beyond ResNet and MobileNetV2, each integer for integer in ONNX Runtime."""

import pytest
import torch
import torch.nn.functional as F
from support import random_images, realistic
from torch import nn

from intraq_deploy.graph.execute import apply
from intraq_deploy.graph.ops import Unary
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.schemes import constraints_of
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program import arithmetic
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import NO_CONSTRAINTS, make_scheme
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnx.lower import lower, serialize
from intraq_deploy.targets.onnxruntime.opening import open_shipped
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.layers import computed_in
from intraq_deploy.targets.tensorrt.rtx import compile_model

SHAPE = (4, 15, 15)


def net(*layers, features=8, classes=5):
    """Layers, global pooling and a classifier."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))


class PaddedClamp(nn.Module):
    """Zeros next to values that are never zero."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.pad(F.hardtanh(self.conv(x), 0.5, 6), (1, 1, 1, 1))
        return self.fc(F.max_pool2d(x, 2).mean((2, 3)))


class Matrix(nn.Module):
    """A classifier that is written as a product."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.matrix, self.bias = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return F.relu(self.conv(x)).mean((2, 3)) @ self.matrix + self.bias


class Cosine(nn.Module):
    """A classifier by the angles between features and weights."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.matrix = nn.Parameter(torch.randn(5, 8))

    def forward(self, x):
        features = F.relu(self.conv(x)).mean((2, 3))
        return 16 * F.linear(F.normalize(features), F.normalize(self.matrix))


class TwoReaders(nn.Module):
    """A ReLU6 that only one of two readers sees, under a name that torch's containers have."""

    def __init__(self):
        super().__init__()
        self.values = nn.Conv2d(4, 8, 3, padding=1)
        self.pop = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.values(x)
        return self.fc((x + self.pop(F.relu6(x))).mean((2, 3)))


class Calls(nn.Module):
    """A function of a convolution's output and of this network's other layers, then a classifier."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.other = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.LazyLinear(5)
        self.function = function

    def forward(self, x):
        return self.fc(self.function(self, self.bn(self.conv(x))).mean((2, 3)))


class Direct(nn.Module):
    """A function of the image, then a convolution and a classifier."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(F.relu(self.conv(self.function(x))).mean((2, 3)))


def shuffled(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


FUNCTIONS = {
    "sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid, "hardswish": F.hardswish, "silu": F.silu, "gelu": F.gelu,
    "gelu of tanh": lambda x: F.gelu(x, approximate="tanh"), "tanh": torch.tanh, "mish": F.mish,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1), "elu": F.elu, "selu": F.selu, "celu": lambda x: F.celu(x, 0.5),
    "softplus": F.softplus, "exp": torch.exp, "abs": torch.abs, "square": torch.square,
    "root": lambda x: F.relu(x).sqrt(), "cubic root": lambda x: F.relu(x).pow(1 / 3),
}  # fmt: skip

CALLS = {
    "batch norm on its own": lambda net, x: net.other(F.relu(net.norm(F.relu(x)))),
    "concatenation": lambda net, x: torch.cat([F.relu(x), net.other(F.relu(x)), x], 1),
    "concatenation of what was concatenated": lambda net, x: torch.cat([x, torch.cat([net.other(x), F.relu(x)], 1)], 1),
    "concatenation of a sum": lambda net, x: torch.cat([F.relu(x) + net.other(F.relu(x)), F.relu(x)], 1),
    "split": lambda net, x: torch.cat([y + net.other(x)[:, :4] for y in F.relu(x).chunk(2, 1)], 1),
    "channel shuffle": lambda net, x: net.other(shuffled(F.relu(x))),
    "channel shuffle by torch": lambda net, x: net.other(torch.channel_shuffle(F.relu(x), 2)),
    "pixels to channels and back": lambda net, x: net.other(
        F.pixel_shuffle(F.pixel_unshuffle(F.relu(x)[:, :, :14, :14], 2), 2)
    ),
    "an expanded gate": lambda net, x: x * torch.sigmoid(net.other(x.mean((2, 3), keepdim=True))).expand_as(x),
    "means of rows": lambda net, x: net.other(F.relu(x).mean(3, keepdim=True)),
    "means of columns of means of rows": lambda net, x: x * x.mean(3).mean(2)[:, :, None, None],
    "global maxima": lambda net, x: net.other(F.adaptive_max_pool2d(F.relu(x), 1)),
    "more rows than there are": lambda net, x: net.other(F.adaptive_avg_pool2d(F.max_pool2d(F.relu(x), 15), (7, 7))),
    "adaptive windows that overlap": lambda net, x: net.other(F.adaptive_avg_pool2d(F.relu(x), (7, 6))),
    "cropped by padding": lambda net, x: net.other(F.pad(F.relu(x), (-1, 1, 2, -3))),
    "the greater half": lambda net, x: torch.cat([torch.maximum(*x.chunk(2, 1))] * 2, 1),
    "one channel for all": lambda net, x: net.other(F.relu(x)[:, 2:3].repeat(1, 8, 1, 1)),
    "smaller by nearest": lambda net, x: net.other(F.interpolate(F.relu(x), size=(5, 7))),
    "maxima over a line": lambda net, x: net.other(F.max_pool1d(F.relu(x).flatten(2), 3).view(-1, 8, 5, 15)),
    "a context that is added": lambda net, x: F.relu(x) + net.other(F.relu(x).mean((2, 3), keepdim=True)),
    "a context beside": lambda net, x: torch.cat(
        [F.relu(x)[:, :4], net.other(F.relu(x).mean((2, 3), keepdim=True))[:, :4].expand(-1, -1, 15, 15)], 1
    ),
    "gates of rows and columns": lambda net, x: (
        F.relu(x) * net.other(F.relu(x).mean(3, True)).sigmoid() * net.other(F.relu(x).mean(2, True)).sigmoid()
    ),
    "a generalized mean": lambda net, x: F.avg_pool2d(net.other(x).clamp(min=1e-6).pow(3), 15).pow(1 / 3),
    "the sum of positions": lambda net, x: net.other(F.relu(x).sum((2, 3), keepdim=True)),
    "larger by lines": lambda net, x: (
        F.relu(x)[:, :, :14, :14]
        + F.interpolate(net.other(F.max_pool2d(F.relu(x), 2)), scale_factor=2, mode="bilinear")
    ),
    "a third by lines": lambda net, x: net.other(F.interpolate(F.relu(x), scale_factor=1 / 3, mode="bilinear")),
    "matrices of groups": lambda net, x: (
        F.relu(x)
        * torch.einsum("bgi,gio->bgo", F.relu(x).mean((2, 3)).view(-1, 2, 4), torch.linspace(-1, 1, 32).view(2, 4, 4))
        .reshape(-1, 8, 1, 1)
        .sigmoid()
    ),
    "reflected": lambda net, x: net.other(F.pad(F.relu(x), (1, 1, 2, 2), mode="reflect")),
    "-inf around a ReLU": lambda net, x: net.other(F.max_pool2d(F.pad(F.relu(x), (0, 1, 0, 1), value=-1e38), 2)),
    "slopes of channels": lambda net, x: net.other(F.prelu(x, torch.linspace(0.05, 0.4, 8))),
    "a difference": lambda net, x: F.relu(net.other(F.relu(x)) - F.relu(x)),
    "a share of a branch": lambda net, x: torch.add(F.relu(x), net.other(F.relu(x)), alpha=0.3),
    "channels in another order": lambda net, x: net.other(F.relu(x)[:, [2, 1, 0, 3, 4, 5, 7, 6]]),
    "a stack": lambda net, x: net.other(torch.stack([F.relu(x)[:, :4], F.relu(x)[:, 4:]], 2).flatten(1, 2)),
    "-inf around any values": lambda net, x: net.other(F.max_pool2d(F.pad(x, (1, 1, 0, 1), value=-1e38), 3, 2)),
    "turned upside down": lambda net, x: net.other(F.relu(x).flip(2)),
    "larger by nearest": lambda net, x: (
        F.relu(x)[:, :, :14, :14] + F.interpolate(net.other(F.max_pool2d(F.relu(x), 2)), scale_factor=2)
    ),
    "attention by channels": lambda net, x: (
        F.relu(x)
        * torch.sigmoid(
            F.conv1d(F.relu(x).mean((2, 3))[:, None], torch.tensor([[[0.2, 0.5, 0.3]]]), padding=1).view(-1, 8, 1, 1)
        )
    ),
    "attention by positions": lambda net, x: (
        F.relu(x)
        * torch.sigmoid(
            F.conv2d(torch.cat([x.amax(1, True), x.mean(1, True)], 1), torch.full((1, 2, 3, 3), 0.2), padding=1)
        )
    ),
    "a sum of branches": lambda net, x: torch.stack([F.relu(x), net.other(F.relu(x))], 1).sum(1),
    "branches chosen by softmax": lambda net, x: (
        torch.stack([F.relu(x)[:, :4], F.relu(net.other(x))[:, 4:]], 1)
        * net.other(F.relu(x).mean((2, 3), keepdim=True)).view(-1, 2, 4, 1, 1).softmax(1)
    ).sum(1),
    "a transposed convolution": lambda net, x: F.conv_transpose2d(
        F.relu(x), torch.linspace(-0.5, 0.5, 8 * 6 * 9).reshape(8, 6, 3, 3), None, 2, 1, 1
    ),
    "a gate of last channels": lambda net, x: (
        F.relu(x).permute(0, 2, 3, 1) * torch.sigmoid(F.relu(x).permute(0, 2, 3, 1).mean((1, 2), keepdim=True))
    ).permute(0, 3, 1, 2),
    "squeeze and excite": lambda net, x: F.relu(x) * torch.sigmoid(net.other(F.relu(x).mean((2, 3), keepdim=True))),
    "swish by hand": lambda net, x: net.other(x * torch.sigmoid(x)),
    "old hardswish": lambda net, x: net.other(x * F.relu6(x + 3) / 6),
    "average over windows": lambda net, x: net.other(F.avg_pool2d(F.relu(x), 2)),
    "average with padding": lambda net, x: net.other(F.avg_pool2d(F.relu(x), 3, 1, 1)),
    "channel gains": lambda net, x: net.other(F.relu(x)) * torch.linspace(0.5, 2, 8).reshape(8, 1, 1) - 0.25,
} | {name: (lambda net, x, f=function: net.other(f(x))) for name, function in FUNCTIONS.items()}


FORMS = {
    "several linear layers": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(),
        nn.Linear(72, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2),
    ),
    "groups": lambda: net(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU()),
    "channel multiplier": lambda: net(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), nn.ReLU()),
    "dilation": lambda: net(nn.Conv2d(4, 8, 3, dilation=2, padding=2), nn.ReLU()),
    "rectangular kernel": lambda: net(nn.Conv2d(4, 8, (1, 5), (2, 1), (0, 2)), nn.ReLU()),
    "same padding": lambda: net(nn.Conv2d(4, 8, (3, 5), padding="same"), nn.ReLU()),
    "ReLU6 behind a pooling": lambda: net(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.ReLU6()),
    "Hardtanh": lambda: net(nn.Conv2d(4, 8, 3), nn.Hardtanh(-0.5, 1.5), nn.Conv2d(8, 8, 1)),
    "max pooling with ceil_mode": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.MaxPool2d(2, 2, 1, ceil_mode=True), nn.Flatten(), nn.Linear(512, 5)
    ),
    "padding that no activation lets through": PaddedClamp,
    "an activation with one of two readers": TwoReaders,
    "a convolution as the classifier": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Conv2d(8, 5, 2), nn.Flatten()
    ),
    "a convolution as the classifier of one pixel": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.Flatten(2), nn.Flatten()
    ),
    "a matrix as the classifier": Matrix,
    "an activation on the logits": lambda: nn.Sequential(net(nn.Conv2d(4, 8, 3), nn.ReLU()), nn.ReLU6()),
} | {name: (lambda function=function: Calls(function)) for name, function in CALLS.items()}  # fmt: skip


def program_of(module, bits, scheme="integer", profile=None):
    constraints = NO_CONSTRAINTS if profile is None else constraints_of((profile,))
    network = build_network(
        trace(module, SHAPE), make_scheme(scheme, bits, bits, constraints), random_images(32, SHAPE), 0
    )
    settle(network)
    return freeze(network)


def seeded(form):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = form()
        module(torch.zeros(2, *SHAPE))  # lazy layers take their sizes
        return realistic(module, SHAPE)


# What a function makes of its codes needs all 8 bits to be seen; data are moved alike at any width.
WIDTHS = {name: (8,) if name in FUNCTIONS else (4,) if name in CALLS else (4, 8) for name in FORMS}
CASES = [pytest.param(name, bits, id=f"{name}-{bits}") for name, widths in WIDTHS.items() for bits in widths]


@pytest.mark.parametrize(("form", "bits"), CASES)
def test_a_form_is_equal_integer_for_integer(form, bits, tmp_path):
    program = program_of(seeded(FORMS[form]), bits)
    result = validate(export(program, load_profile("onnxruntime"), tmp_path, {}), program, random_images(64, SHAPE))
    assert program.tolerances == {}
    assert result.parity.compared > 0
    assert result.parity.mismatched == 0
    assert result.logits_equal
    assert result.passes


@pytest.mark.parametrize("form", FORMS)
def test_every_layer_of_a_form_multiplies_int8_in_tensorrt(form):
    """NVIDIA's own parser and compiler take the reshapes, slices and repeated parts that forms are made of."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'intraq-deploy[rtx]'")
    model = lower(program_of(seeded(FORMS[form]), 4), load_profile("tensorrt-rtx"), {}).model
    kinds = computed_in(model, compile_model(serialize(model), "8.6").layers)
    assert set(kinds.values()) == {"INT8"}


@pytest.mark.parametrize("profile", [None, "onnxruntime"], ids=["signed", "unsigned"])
def test_no_average_over_windows_is_left_to_floats(profile, tmp_path):
    """With signed codes a Clip stands behind the average, with unsigned ones none."""
    program = program_of(seeded(FORMS["average over windows"]), 4, profile=profile)
    operators = open_shipped(export(program, load_profile("onnxruntime"), tmp_path, {})).operators()
    assert operators.get("Clip", 0) >= (profile is None)
    assert not [operator for operator in operators if "AveragePool" in operator and "Global" not in operator]


def test_the_largest_products_of_a_channel_multiplier_do_not_saturate(tmp_path):
    """Largest weights on the largest signed inputs, which kernels for depthwise convolutions do not cover."""
    module = seeded(FORMS["channel multiplier"])
    with torch.no_grad():
        module[0].weight.copy_(module[0].weight.sign())
    program = program_of(module, 8)
    images = random_images(32, SHAPE).sign() * 4
    result = validate(export(program, load_profile("onnxruntime"), tmp_path, {}), program, images)
    assert result.parity.mismatched == 0


def test_without_a_quantized_tensor_the_logits_are_still_compared(tmp_path):
    program = program_of(seeded(lambda: net(nn.Conv2d(4, 8, 3))), 4, scheme="paper")
    assert program.grids == {}
    artifact = export(program, load_profile("onnxruntime"), tmp_path, {})
    assert validate(artifact, program, random_images(8, SHAPE)).passes
    program.layers[program.graph.output].bias[0] += 0.01
    assert not validate(artifact, program, random_images(8, SHAPE)).passes


INTEGER_KERNELS = {
    "sigmoid": {"QLinearSigmoid": 1},
    "hardsigmoid": {"QLinearLeakyRelu": 1},
    "hardswish": {"QLinearLeakyRelu": 1, "QLinearMul": 1},
    "silu": {"QLinearSigmoid": 1, "QLinearMul": 1},
    "leaky_relu": {"QLinearLeakyRelu": 1},
}


@pytest.mark.parametrize(("name", "kernels"), INTEGER_KERNELS.items(), ids=INTEGER_KERNELS)
@pytest.mark.parametrize("profile", ["onnxruntime", "onnxruntime-avx2"])
def test_every_code_goes_through_an_integer_kernel(name, kernels, profile, tmp_path):
    """Images of all 256 codes: what the runtime makes of each is in the Program's table."""
    module = seeded(lambda: Direct(FUNCTIONS[name]))
    program = program_of(module, 8, profile=profile)
    codes = torch.arange(256).repeat(4)[: SHAPE[0] * SHAPE[1] * SHAPE[2]].reshape(1, *SHAPE) - 128
    images = codes * torch.tensor(program.grids["image"].scale)
    artifact = export(program, load_profile(profile), tmp_path, {})
    result = validate(artifact, program, images)
    assert result.parity.mismatched == 0
    operators = open_shipped(artifact).operators()
    assert {key: operators.get(key) for key in kernels} == kernels
    assert not {"Sigmoid", "HardSigmoid", "LeakyRelu", "Mul"} & set(operators)


def test_every_code_of_a_function_is_its_tables(tmp_path):
    """Also those that no image brings about."""
    for name, function in FUNCTIONS.items():
        program = program_of(seeded(lambda f=function: Calls(lambda net, x: f(x))), 8)
        (node,) = [node for node in program.graph.nodes if isinstance(node.op, Unary)]
        grid_x, grid_y = program.grids[node.inputs[0]], program.grids[node.name]
        codes = torch.arange(grid_x.code_min, grid_x.code_max + 1, dtype=torch.float32)
        expected = arithmetic.unary_table(node.op, grid_x, grid_y)
        with torch.no_grad():
            real = apply(node.op, arithmetic.dequantize(codes, grid_x))
        assert torch.equal(arithmetic.quantize(real, grid_y), expected), name


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt-int8", "tensorrt8-int8"])
def test_a_classifier_by_angles_is_within_its_tolerance(target, tmp_path):
    profile = load_profile(target)
    program = program_of(seeded(Cosine), 8, profile=target)
    assert "channels are normalised in float32" in {each.reason for each in program.tolerances.values()}
    result = validate(export(program, profile, tmp_path, {}), program, random_images(64, SHAPE))
    assert result.passes
    assert result.parity.mismatched == sum(each.mismatched for each in result.parity.tensors if each.tolerance)
    if target != "onnxruntime":
        pytest.importorskip(
            "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'intraq-deploy[rtx]'"
        )
        assert compile_model(serialize(lower(program, profile, {}).model), "8.6").layers


def test_windows_with_unlike_divisors_are_averaged_in_float(tmp_path):
    module = seeded(lambda: Calls(lambda net, x: net.other(F.avg_pool2d(F.relu(x), 3, 2, 1, count_include_pad=False))))
    program = program_of(module, 4)
    assert [t.reason for t in program.tolerances.values()] == ["windows are averaged in float32"]
    assert validate(
        export(program, load_profile("onnxruntime"), tmp_path, {}), program, random_images(16, SHAPE)
    ).passes
