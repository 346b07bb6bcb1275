"""TensorRT's dialect without TensorRT: what the file says, run by ONNX Runtime as it is written, and its arithmetic."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import SMALL_SHAPE, random_images, realistic, small_network
from torch import nn

from intraq_deploy.errors import TargetError
from intraq_deploy.evaluation.parity import compare
from intraq_deploy.files import sha256_of
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.arithmetic import f32
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import TargetConstraints, make_scheme
from intraq_deploy.targets.onnx.builder import initializer
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnx.lint import lint
from intraq_deploy.targets.onnx.lower import lower
from intraq_deploy.targets.onnx.older import OlderOperators
from intraq_deploy.targets.onnx.tensorrt import LARGEST_INT4
from intraq_deploy.targets.onnxruntime.opening import is_rehearsed, open_shipped
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.arithmetic import TensorRTArithmetic

DIALECTS = ["tensorrt-int8", "tensorrt8-int8", "tensorrt-int4", "tensorrt-rtx", "tensorrt-rtx-int4"]
BITS = [(4, 4), (8, 8), (3, 5)]
IN_ONNX = {"gelu": "Gelu", "tanh gelu": "Gelu", "mish": "Mish", "layer norm": "LayerNormalization"}
"""Of the functions that are newer than some dialect's opset."""


@pytest.fixture(scope="module")
def programs(frozen):
    """By network and bits; made once."""
    made = {}

    def make(network, weight_bits=4, activation_bits=4):
        key = network, weight_bits, activation_bits
        if key not in made:
            made[key] = frozen(network, weight_bits=weight_bits, activation_bits=activation_bits)[1]
        return made[key]

    return make


def operators(model):
    return {node.op_type for node in model.graph}


def stored(model, kind):
    return [value for value in model.graph.initializers.values() if value.dtype == kind]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("network", ["resnet", "mobilenet"])
@pytest.mark.parametrize("target", DIALECTS)
def test_the_file_says_what_the_program_says(programs, tmp_path, target, network, bits):
    """In float32, so that a code in the middle between two may differ: fewer than one in ten thousand does."""
    program = programs(network, *bits)
    artifact = export(program, load_profile(target), tmp_path, {})
    assert is_rehearsed(artifact)
    found = validate(artifact, program, random_images(8))
    assert found.passes
    assert found.rehearsed
    assert found.parity.mismatched <= 1e-5 * found.parity.compared
    assert found.parity.compared > 100_000


@pytest.mark.parametrize("target", ["tensorrt-int8", "tensorrt-int4"])
def test_a_changed_constant_is_seen(programs, tmp_path, target):
    """Scales, bounds, biases and codes of one layer, each a little wrong."""
    program = programs("resnet")
    artifact = export(program, load_profile(target), tmp_path, {})
    for name, change in {
        "conv1.codes.high": lambda x: x * 0.9,
        "conv1.bias.float": lambda x: x + 3 * np.abs(x).max(),
        "layer1.conv1.scale": lambda x: x * np.float32(1.02),
    }.items():
        model = ir.load(artifact.path)
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(change(value.const_value.numpy()).astype(np.float32), name=name)
        ir.save(model, artifact.path)
        changed = replace(artifact, sha256=sha256_of(artifact.path))
        assert not validate(changed, program, random_images(8)).passes, name
        artifact = export(program, load_profile(target), tmp_path, {})


def test_quantizers_are_int8_with_zero_point_0_behind_one_float_clip(programs):
    program = programs("resnet")
    model = lower(program, load_profile("tensorrt-int8"), {}).model
    assert model.opset_imports[""] == 17
    assert "Relu" not in operators(model)
    assert not stored(model, ir.DataType.UINT8)
    assert not stored(model, ir.DataType.INT32)
    for node in model.graph:
        if node.op_type == "Clip":
            assert [usage.node.op_type for usage in node.outputs[0].uses()] == ["QuantizeLinear"]
            assert node.inputs[0].producer().op_type not in ("Clip", "Relu")
            assert {value.dtype for value in node.inputs[1:]} == {ir.DataType.FLOAT}
        if node.op_type == "QuantizeLinear":
            assert node.inputs[2].dtype == ir.DataType.INT8
            assert not node.inputs[2].const_value.numpy().any()


def test_tensorrt_8_quantizes_weights_in_the_graph(programs):
    program = programs("resnet")
    model = lower(program, load_profile("tensorrt8-int8"), {}).model
    assert model.opset_imports[""] == 13
    layers = [node for node in model.graph if node.op_type in ("Conv", "Gemm")]
    assert layers
    for node in layers:
        dequantize = node.inputs[1].producer()
        assert dequantize.op_type == "DequantizeLinear"
        quantize = dequantize.inputs[0].producer()
        assert quantize.op_type == "QuantizeLinear"
        assert quantize.inputs[0].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize(("weight_bits", "int4"), [(4, True), (3, True), (5, False), (8, False)])
def test_only_linear_layers_within_4_bits_get_int4(programs, weight_bits, int4):
    program = programs("resnet", weight_bits)
    model = lower(program, load_profile("tensorrt-int4"), {}).model
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm"):
            codes = node.inputs[1].producer().inputs[0]
            assert (codes.dtype == ir.DataType.INT4) == (int4 and node.op_type == "Gemm"), node.name
    (gemm,) = [node for node in model.graph if node.op_type == "Gemm"]
    if int4:
        weight = gemm.inputs[1].producer()
        assert np.abs(weight.inputs[0].const_value.numpy().astype(int)).max() <= LARGEST_INT4
        block = weight.attributes.get_int("block_size")
        assert weight.inputs[0].shape[1] % block == 0
        assert weight.inputs[1].dtype == ir.DataType.FLOAT16
        assert gemm.name == "fc"


class TwoLinear(nn.Module):
    """The first linear layer is no classifier: what it makes is quantized again."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.f1, self.f2 = nn.Linear(16, 32), nn.Linear(32, 10)

    def forward(self, x):
        x = self.pool(torch.relu(self.bn(self.conv(x)))).flatten(1)
        return self.f2(torch.relu(self.f1(x)))


def test_int4_layers_one_behind_the_other(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        graph = trace(realistic(TwoLinear(), SMALL_SHAPE), SMALL_SHAPE)
    module = build_network(graph, make_scheme("integer", 4, 4), random_images(16), 0)
    settle(module)
    program = freeze(module)
    artifact = export(program, load_profile("tensorrt-int4"), tmp_path, {})
    names = [node.name for node in ir.load(artifact.path).graph]
    assert len(set(names)) == len(names)
    found = validate(artifact, program, random_images(16))
    assert found.passes
    assert found.parity.logits_difference > 0, "float16"


@pytest.mark.parametrize("bits", [(8, 8), (4, 8)])
@pytest.mark.parametrize("function", IN_ONNX)
@pytest.mark.parametrize("target", ["tensorrt-int8", "tensorrt8-int8"])
def test_functions_that_are_newer_than_the_opset(programs, tmp_path, target, function, bits):
    """Written in older operators, which compute the same."""
    program, profile = programs(function, *bits), load_profile(target)
    artifact = export(program, profile, tmp_path, {})
    model = ir.load(artifact.path)
    assert (IN_ONNX[function] in operators(model)) == onnx.defs.has(IN_ONNX[function], profile.opset)
    assert not lint(model, profile)
    found = validate(artifact, program, random_images(16))
    assert found.passes
    assert found.parity.mismatched <= 1e-5 * found.parity.compared
    assert found.parity.compared > 500_000


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize(("name", "attributes"), [
    ("Gelu", {}), ("Gelu", {"approximate": "tanh"}), ("Mish", {}), ("LayerNormalization", {"epsilon": 1e-3}),
])  # fmt: skip
def test_older_operators_compute_what_the_function_does(name, attributes, opset):
    """In float32, to a few units in the last place, up to where Mish's exponential would overflow."""
    x = np.linspace(-120, 120, 4096, dtype=np.float32).reshape(8, -1).T.copy()
    parameters = {"gain": np.linspace(-1, 2, 8), "bias": np.linspace(0, 1, 8)} if name == "LayerNormalization" else {}
    models = {}
    for version in (20, opset):
        values = [ir.val("x", ir.DataType.FLOAT, x.shape)]
        graph = ir.Graph(values, [], nodes=[], opset_imports={"": version}, name="g")
        values += [initializer(graph, key, array.astype(np.float32)) for key, array in parameters.items()]
        graph.append(ir.node(name, values, attributes, outputs=[ir.val("y", ir.DataType.FLOAT, x.shape)], name="y"))
        graph.outputs.extend(graph.node("y").outputs)
        models[version] = ir.Model(graph, ir_version=9)
    assert OlderOperators()(models[opset]).modified != onnx.defs.has(name, opset)
    assert not OlderOperators()(models[20]).modified
    expected, found = (
        onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"x": x})[0]
        for model in models.values()
    )
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-5)


def test_inputs_that_no_block_divides_stay_int8(programs):
    """The small MobileNet's classifier has 24 inputs or so: no multiple of 16."""
    program = programs("mobilenet")
    model = lower(program, load_profile("tensorrt-int4"), {}).model
    (gemm,) = [node for node in model.graph if node.op_type == "Gemm"]
    inputs = program.layers[gemm.name].codes.shape[1]
    kind = gemm.inputs[1].producer().inputs[0].dtype
    assert kind == (ir.DataType.INT4 if inputs % 16 == 0 else ir.DataType.INT8)


def test_a_program_with_unsigned_bytes_is_refused_by_name():
    graph = trace(small_network("resnet"), SMALL_SHAPE)
    module = build_network(
        graph,
        make_scheme("integer", 8, 8, TargetConstraints(unsigned_activations=True, largest_weight=64)),
        random_images(8),
        0,
    )
    settle(module)
    with pytest.raises(TargetError, match=r"conv1.*stores UINT8.*clips at 127: store INT8"):
        lower(freeze(module), load_profile("tensorrt-int8"), {})


@given(scale=st.floats(2**-20, 2**10).map(f32), low=st.integers(-127, 0), high=st.integers(0, 127))
def test_a_float_clip_gives_the_codes_of_an_integer_clip(scale, low, high):
    """Both divide by the scale; TensorRT multiplies by its reciprocal: the bounds give their codes there too."""
    step = np.float32(scale)
    bounds = np.array([low, high], dtype=np.float32) * step
    for codes in (np.rint(bounds / step), np.rint(bounds * (np.float32(1) / step))):
        assert codes.tolist() == [low, high]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("network", ["resnet", "mobilenet"])
@pytest.mark.parametrize("bits", [(4, 4), (8, 8)])
def test_tensorrts_arithmetic_differs_in_ties_only(programs, network, bits, fused):
    """A handful of several hundred thousand integers, each by one."""
    program = programs(network, *bits)
    parity = compare(program, TensorRTArithmetic(program, fused=fused).observed, random_images(16), 8)
    assert parity.compared > 200_000
    assert parity.mismatched <= 1e-5 * parity.compared
    assert all(tensor.largest_difference <= 1 for tensor in parity.tensors)
    assert parity.logits_difference < 1e-6


def test_the_simulation_sees_a_tie_that_a_reciprocal_breaks(programs):
    """x / s and x (1 / s) fall on two sides of 1/2 for some x: the image's quantizer is where that shows."""
    program = programs("resnet")
    scale = torch.tensor(program.grids["image"].scale)
    candidates = (torch.arange(-100, 100).float() + 0.5) * scale
    candidates = torch.cat(
        [candidates, candidates.nextafter(torch.tensor(9.0)), candidates.nextafter(torch.tensor(-9.0))]
    )
    images = torch.zeros(1, *SMALL_SHAPE)
    images.view(-1)[: len(candidates)] = candidates
    _, codes = TensorRTArithmetic(program, fused=False).observed(images)
    quotient = (images / scale).round().clamp(program.grids["image"].code_min, program.grids["image"].code_max)
    reciprocal = (images * (1 / scale)).round().clamp(program.grids["image"].code_min, program.grids["image"].code_max)
    assert torch.equal(codes["image"].float(), reciprocal)
    assert int((quotient != reciprocal).sum()) > 0


def test_accuracy_is_measured_on_the_file(programs, tmp_path):
    program = programs("resnet")
    artifact = export(program, load_profile("tensorrt-int8"), tmp_path, {})
    logits = open_shipped(artifact, 1).run(random_images(4))
    assert logits.shape == (4, 10)
