"""What is not stored is computed at load: smaller files of the same kernels and the same integers."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from support import random_images, realistic
from torch import nn

from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import Conv2d, Input
from intraq_deploy.graph.trace import trace
from intraq_deploy.program.freeze import float_program, freeze
from intraq_deploy.program.program import Grid, IntegerWeights, Normalization, Program
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.targets.onnx import canonical
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnx.lower import instrument, lower, serialize, stored_zero_points
from intraq_deploy.targets.onnx.packing import ImpliedParameters, PackedWeights
from intraq_deploy.targets.onnx.passes import UnsignedActivations, UnsignedWeights
from intraq_deploy.targets.onnxruntime.session import Session
from intraq_deploy.targets.profile import load_profile

PROFILE = load_profile("onnxruntime")
SMALLER = ("packed-weights", "implied-parameters")
IN_FULL = PROFILE.model_copy(update={"passes": tuple(name for name in PROFILE.passes if name not in SMALLER)})


def one_layer(codes):
    """image -> convolution, with codes [O, I, H, W]."""
    codes = torch.tensor(codes, dtype=torch.int8)
    outputs, inputs = codes.shape[:2]
    conv = Conv2d((1, 1), (0, 0, 0, 0), (1, 1), 1)
    graph = Graph((Node("image", Input(), (), (inputs, 4, 4)), Node("conv", conv, ("image",), (outputs, 4, 4))), "conv")
    weights = IntegerWeights(codes, torch.full((outputs,), 0.1), torch.arange(outputs, dtype=torch.int32))
    return Program(graph, {"image": Grid(0.5, 8, -128, 127, -128)}, {"conv": weights})


def stored(model):
    """Initializers by name, as onnx reads them."""
    return {tensor.name: tensor for tensor in onnx.load_from_string(serialize(model)).graph.initializer}


def channels(*rows):
    return [[[[code]] for code in row] for row in rows]


@pytest.mark.parametrize(
    ("codes", "zero_points"),
    [
        (channels([-7, 0, 7], [1, 2, 3]), None),
        (channels([-8, 0, 7]), None),
        (channels([-1, 0, 1]), None),
        (channels([0, 3, 15], [-15, -4, 0], [-8, 1, 7]), [-8, 7, 0]),
        (channels([-5, 3, 10], [-9, 0, 6]), [-3, 1]),
        (channels([100, 107, 115]), [-108]),
    ],
    ids=["symmetric", "every code", "two bits", "asymmetric, extremes", "asymmetric", "far from zero"],
)
def test_codes_are_stored_in_four_bits(codes, zero_points):
    model = canonical.write(one_layer(codes), 21, {})
    assert PackedWeights()(model).modified
    assert not PackedWeights()(model).modified, "nothing is left to do"
    tensors = stored(model)
    packed = tensors["conv.weight.int4"]
    assert packed.data_type == TensorProto.INT4
    assert len(packed.raw_data) == (np.array(codes).size + 1) // 2
    values = numpy_helper.to_array(packed).astype(int)
    if zero_points is not None:
        zero_point = numpy_helper.to_array(tensors["conv.weight.codes.zero_point"])
        assert zero_point.dtype == np.int8
        assert zero_point.flatten().tolist() == zero_points
        values -= zero_point
    else:
        assert "conv.weight.codes.zero_point" not in tensors
    assert np.array_equal(values, codes)


@pytest.mark.parametrize(
    ("codes", "dtype"),
    [
        (channels([-7, 0, 7], [-8, 0, 8]), TensorProto.INT8),
        (channels([-128, 0, 127]), TensorProto.INT8),
        (channels([-127, 0, 127]), TensorProto.UINT8),
    ],
    ids=["a channel of 17 codes", "all of a byte", "stored unsigned"],
)
def test_codes_of_more_bits_stay_bytes(codes, dtype):
    model = canonical.write(one_layer(codes), 21, {})
    if dtype == TensorProto.UINT8:
        UnsignedActivations()(model)
        UnsignedWeights()(model)
    assert not PackedWeights()(model).modified
    assert stored(model)["conv.weight.codes"].data_type == dtype


def test_parameters_that_follow_are_not_stored():
    model = canonical.write(one_layer(channels([-7, 0, 7], [1, 2, 3])), 21, {})
    assert ImpliedParameters()(model).modified
    assert not ImpliedParameters()(model).modified, "nothing is left to do"
    layer = {node.name: node for node in model.graph}
    assert layer["conv.bias.scale"].op_type == "Mul"
    assert [value.name for value in layer["conv.bias.scale"].inputs] == ["image.scale", "conv.weight.scale"]
    assert len(layer["conv.weight"].inputs) == len(layer["conv.bias"].inputs) == 2
    assert "conv.bias.scale" not in model.graph.initializers


def test_another_bias_scale_is_stored():
    model = canonical.write(one_layer(channels([-7, 0, 7])), 21, {})
    scale = model.graph.initializers["conv.bias.scale"]
    scale.const_value = type(scale.const_value)(np.nextafter(scale.const_value.numpy(), np.float32(1)))
    ImpliedParameters()(model)
    assert "conv.bias.scale" in model.graph.initializers


class Forms(nn.Module):
    """Plain, grouped, depthwise and linear layers with odd numbers of weights."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 9, 3, bias=False), nn.BatchNorm2d(9), nn.ReLU(),
            nn.Conv2d(9, 9, 3, groups=3), nn.ReLU(),
            nn.Conv2d(9, 9, 3, groups=9, bias=False), nn.BatchNorm2d(9), nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 7),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


def forms(scheme, weight_bits, activation_bits):
    shape = (3, 12, 12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = realistic(Forms(), shape)
    scheme = make_scheme(scheme, weight_bits, activation_bits)
    network = build_network(trace(module, shape), scheme, random_images(32, shape), 0)
    settle(network)
    return freeze(network)


BITS = {"integer": [(2, 2), (3, 4), (4, 4), (8, 8)], "paper": [(2, 4), (3, 3), (4, 4), (5, 4)], "ends8": [(4, 4)]}
CASES = [("forms", name, *bits) for name, choices in BITS.items() for bits in choices]
CASES += [(network, name, 4, 4) for network in ("resnet", "mobilenet") for name in ("integer", "paper")]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_and_integers_are_those_of_the_model_in_full(frozen, case):
    network, *scheme = case
    program = forms(*scheme) if network == "forms" else frozen(network, *scheme)[1]
    images = random_images(4, program.graph.input.shape)
    small, full = lower(program, PROFILE, {}).model, lower(program, IN_FULL, {}).model
    sessions = [Session(serialize(model)) for model in (small, full)]
    assert sessions[0].operators() == sessions[1].operators()
    assert torch.equal(sessions[0].run(images), sessions[1].run(images))
    zero_points = stored_zero_points(program)
    shown = [
        Session(serialize(instrument(model, program))).run_instrumented(images, zero_points) for model in (small, full)
    ]
    assert torch.equal(shown[0][0], shown[1][0])
    assert list(shown[0][1]) == list(program.grids)
    assert all(torch.equal(codes, shown[1][1][name]) for name, codes in shown[0][1].items())
    four_bits = any(tensor.data_type == TensorProto.INT4 for tensor in stored(small).values())
    assert four_bits == (scheme[1] <= 4)


LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]


def run_at(level, model, images, folder):
    """Logits, and the operators that run."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    settings.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return logits, Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("scheme", ["integer", "paper"])
@pytest.mark.parametrize("level", LEVELS)
def test_every_optimisation_level_gives_the_same(level, scheme, tmp_path):
    program = forms(scheme, 4, 4)
    images = random_images(8, program.graph.input.shape)
    logits, operators = run_at(level, lower(program, PROFILE, {}).data, images, tmp_path)
    expected, plain = run_at(level, lower(program, IN_FULL, {}).data, images, tmp_path)
    assert np.array_equal(logits, expected)
    unfolded = operators - plain
    if level == "ORT_DISABLE_ALL":
        assert unfolded["Cast"] == len(program.layers)
        assert set(unfolded) == ({"Cast", "Mul"} if scheme == "integer" else {"Cast", "Sub", "Mul"})
    else:
        assert not unfolded


def added_channel(program, weights):
    """Codes of the channel that images of integers get for speed."""
    widened = "image" in program.grids and weights.codes.shape[1:] == (3, 3, 3)
    return 9 * len(weights.scale) if widened else 0


@pytest.mark.parametrize("scheme", ["integer", "paper"])
def test_items_add_up_to_the_file(frozen, scheme, tmp_path):
    _, program = frozen("mobilenet", scheme)
    artifact = export(program, PROFILE, tmp_path, {"architecture": "naïve"})
    assert sum(artifact.items.values()) == artifact.bytes == artifact.path.stat().st_size
    layers = program.layers.values()
    stored = (weights.codes.numel() + added_channel(program, weights) for weights in layers)
    assert artifact.items["weights int4"] == sum((codes + 1) // 2 for codes in stored)
    outputs = sum(len(weights.scale) for weights in layers)
    assert artifact.items["scales"] == artifact.items["biases"] == 4 * outputs
    # Where codes need none, only the classifier has zero-points.
    asymmetric = sum(len(weights.scale) for weights in layers if weights.codes.min() < -8 or weights.codes.max() > 7)
    assert artifact.items["zero_points"] == asymmetric + 10
    assert (scheme == "paper") == (asymmetric > 0)
    assert artifact.items["activations"] > 4 * len(program.grids)
    loaded = onnx.load(artifact.path)
    assert artifact.items["metadata"] == sum(len((p.key + p.value).encode()) for p in loaded.metadata_props)


def test_items_of_other_forms(student, tmp_path):
    module = student(weight_bits=8)
    settle(module)
    program = freeze(module, Normalization.of((0.5, 0.4, 0.3), (0.25, 0.2, 0.3)))
    items = export(program, PROFILE, tmp_path, {}).items
    first = next(iter(program.layers.values()))
    unsigned = first.codes.numel()
    assert items["weights uint8"] >= unsigned
    stored = sum(w.codes.numel() + added_channel(program, w) for w in program.layers.values())
    assert items["weights int8"] + items["weights uint8"] == stored
    baseline = export(float_program(trace(Forms().eval(), (3, 12, 12))), PROFILE, tmp_path, {})
    weights = 3 * 9 * 9 + 3 * 9 * 9 + 9 * 9 + 9 * 7
    assert baseline.items["weights float"] == 4 * weights
    assert baseline.items["biases"] == 4 * (9 + 9 + 9 + 7)
    assert sum(baseline.items.values()) == baseline.bytes
