"""NVIDIA's own parser and compiler, without a GPU: what becomes of every layer, and what is refused."""

import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from support import FUNCTIONS, SMALL_SHAPE, random_images, small_network, whole_network

from intraq_deploy.errors import TargetError
from intraq_deploy.graph.trace import trace
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.targets.onnx.builder import initializer, scalar
from intraq_deploy.targets.onnx.lint import lint
from intraq_deploy.targets.onnx.lower import lower, serialize
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.layers import computed_in
from intraq_deploy.targets.tensorrt.rtx import compile_model

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'intraq-deploy[rtx]'")

ORIN = "8.6"
"""Its nearest relative that the compiler has."""
INT8, INT4 = load_profile("tensorrt-rtx"), load_profile("tensorrt-rtx-int4")


@pytest.fixture(scope="module")
def programs():
    """By network, scheme and bits; made once."""
    made, graphs = {}, {}

    def make(name, bits, scheme="integer"):
        if (name, bits, scheme) not in made:
            if name not in graphs:
                graphs[name] = trace(whole_network(name, 64), (3, 64, 64))
            module = build_network(graphs[name], make_scheme(scheme, *bits), random_images(4, (3, 64, 64)), 0)
            settle(module)
            made[name, bits, scheme] = freeze(module)
        return made[name, bits, scheme]

    return make


def compiled(model):
    return computed_in(model, compile_model(serialize(model), ORIN).layers)


@pytest.mark.parametrize("bits", [(4, 4), (8, 8)])
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("torchvision:resnet18", 21),
        ("torchvision:resnet50", 54),
        ("timm:mobilenetv1_100", 28),
        ("torchvision:mobilenet_v2", 53),
    ],
)
def test_every_layer_multiplies_int8(programs, name, layers, bits):
    found = compiled(lower(programs(name, bits), INT8, {}).model)
    assert len(found) == layers
    assert set(found.values()) == {"INT8"}, {layer: kind for layer, kind in found.items() if kind != "INT8"}


@pytest.mark.parametrize("target", ["tensorrt-int8", "tensorrt8-int8"])
def test_the_files_for_devices_compile_alike(programs, target):
    """They differ in their opset and in how weights are stored."""
    found = compiled(lower(programs("torchvision:resnet18", (4, 4)), load_profile(target), {}).model)
    assert set(found.values()) == {"INT8"}


@pytest.mark.parametrize("bits", [(8, 8), (4, 8)])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("target", ["tensorrt-int8", "tensorrt8-int8"])
def test_functions_in_older_operators_compile(frozen, target, function, bits):
    """What stands between two layers keeps neither of them in float."""
    program = frozen(function, weight_bits=bits[0], activation_bits=bits[1])[1]
    assert list(compiled(lower(program, load_profile(target), {}).model).values()) == ["INT8"] * 3


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:mobilenet_v2"])
def test_linear_layers_of_4_bits_are_int4(programs, name):
    found = compiled(lower(programs(name, (4, 4)), INT4, {}).model)
    assert {layer for layer, kind in found.items() if kind == "INT4"} == {list(found)[-1]}, "the classifier"
    assert set(found.values()) == {"INT4", "INT8"}


def test_8_bit_weights_stay_int8(programs):
    assert set(compiled(lower(programs("torchvision:resnet18", (8, 8)), INT4, {}).model).values()) == {"INT8"}


def test_the_linter_names_the_layers_that_the_compiler_leaves_in_float(programs):
    """The scheme paper keeps linear bottlenecks in float, and what reads them multiplies floats."""
    model = lower(programs("torchvision:mobilenet_v2", (4, 4), "paper"), INT8, {}).model
    floats = {layer for layer, kind in compiled(model).items() if kind == "Float"}
    named = {finding.layer for finding in lint(model, INT8) if finding.rule == "layers on integers"}
    assert floats == named
    assert len(floats) > 10


def bad(change, block=0):
    """A convolution between quantizers, or with `block` a linear layer with INT4 weights, changed by `change`."""
    x = ir.val("image", ir.DataType.FLOAT, ["N", 32, 8, 8] if not block else ["N", 32])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="bad")
    weights = np.ones((16, 32) if block else (16, 32, 3, 3), dtype=np.int8)
    parts = {
        "scale": scalar(0.1, np.float32),
        "zero_point": scalar(0, np.int8),
        "weight": weights,
        "weight_scale": np.full((16, 32 // block), 0.1, dtype=np.float32) if block else np.full(16, 0.1, np.float32),
        "bias": np.zeros(16, dtype=np.float32),
    }
    change(parts)
    packed = ir.Tensor(parts["weight"], ir.DataType.INT4, name="weight") if parts.pop("int4", block) else None
    values = {name: initializer(graph, name, array) for name, array in parts.items() if name != "weight" or not packed}
    if packed is not None:
        values["weight"] = ir.val("weight", ir.DataType.INT4, packed.shape, const_value=packed)
        graph.register_initializer(values["weight"])
    q = ir.node("QuantizeLinear", [x, values["scale"], values["zero_point"]], name="q")
    d = ir.node("DequantizeLinear", [q.outputs[0], values["scale"], values["zero_point"]], name="d")
    attributes = {"axis": 1, "block_size": block} if block else {"axis": 0}
    w = ir.node("DequantizeLinear", [values["weight"], values["weight_scale"]], attributes, name="w")
    nodes, bias = [q, d, w], values["bias"]
    if "bias_scale" in values:
        b = ir.node("DequantizeLinear", [bias, values["bias_scale"]], {"axis": 0}, name="b")
        nodes, bias = [*nodes, b], b.outputs[0]
    inputs = [d.outputs[0], w.outputs[0], bias]
    layer = ir.node("Gemm", inputs, {"transB": 1}, name="layer") if block else ir.node("Conv", inputs, name="layer")
    for node in (*nodes, layer):
        graph.append(node)
        node.outputs[0].name = f"{node.name}.out"
    out = layer.outputs[0]
    out.dtype, out.shape = ir.DataType.FLOAT, ir.Shape(["N", 16] if block else ["N", 16, 6, 6])
    graph.outputs.append(out)
    return ir.Model(graph, ir_version=10)


REFUSED = {
    "zero-point": (
        lambda parts: parts.update(zero_point=scalar(3, np.int8)), 0, "zero-points are 0", "zero-point other than 0",
    ),
    "scale 0": (
        lambda parts: parts.update(scale=scalar(0, np.float32)), 0, "scales are positive", "is 0, negative or NaN",
    ),
    "int32 bias": (
        lambda parts: parts.update(bias=np.zeros(16, np.int32), bias_scale=np.full(16, 0.01, np.float32)), 0,
        "biases are float", "bias stands behind a DequantizeLinear",
    ),
    "int4 convolution": (
        lambda parts: parts.update(int4=True), 0, "no INT4 convolutions", "convolution has 4-bit weights",
    ),
    "int4 behind int8": (lambda parts: None, 16, "INT4 is weight-only", "INT4 weights in blocks stand behind"),
    "int16": (
        lambda parts: parts.update(zero_point=scalar(0, np.int16)), 0, "codes are INT8", "type that it does not know",
    ),
}  # fmt: skip
"""By name: the change, the block size, the linter's rule, and what the compiler's refusal is translated to."""


def test_the_model_that_is_changed_is_good():
    model = bad(lambda parts: None)
    assert not lint(model, INT8)
    assert compiled(model) == {"layer": "INT8"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_compiler_refuses_the_linter_names_before(name):
    change, block, rule, meaning = REFUSED[name]
    model = bad(change, block)
    findings = lint(model, INT8)
    assert [finding.rule for finding in findings if finding.refused] == [rule]
    with pytest.raises(TargetError, match=rf"refuses the model: .*{meaning}.*It said: "):
        compile_model(serialize(model), ORIN)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_the_compiler_knows_no_dilated_pools(op, dilation):
    pool = f"y = {op}<kernel_shape = [2, 2], dilations = [{dilation}, {dilation}]>(x)"
    head = '<ir_version: 10, opset_import: ["": 22]> g (float[N, 3, 8, 8] x) => (float[N, 3, h, w] y)'
    model = onnx.parser.parse_model(f"{head} {{ {pool} }}")
    refused = [finding.rule for finding in lint(ir.from_proto(model), INT8) if finding.refused]
    assert refused == ["pools without dilations"] * (dilation > 1)
    if refused:
        with pytest.raises(TargetError, match="does not support dilations other than 1"):
            compile_model(model.SerializeToString(), ORIN)
    else:
        compile_model(model.SerializeToString(), ORIN)


@pytest.mark.parametrize(("outer", "inner", "layer"), [
    (0, 0, None), (3, 0, "fq in Quantized (a)"), (0, 3, "tq in then_branch of y"),
])  # fmt: skip
def test_the_compiler_reads_functions_and_subgraphs_too(outer, inner, layer):
    """A zero-point in a function, or in a branch."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 17, "own": 1]>
        g (float[N, 3, 4, 4] x, bool c) => (float[N, 3, 4, 4] y)
        <float s = {{0.5}}, int8 z = {{{outer}}}, int8 v = {{{inner}}}>
        {{
            a = own.Quantized(x, s, z)
            y = If (c) <
                then_branch = t () => (float[N, 3, 4, 4] ty) {{
                    tq = QuantizeLinear(a, s, v)
                    ty = DequantizeLinear(tq, s, v)
                }},
                else_branch = e () => (float[N, 3, 4, 4] ey) {{ ey = Relu(a) }}
            >
        }}
        <domain: "own", opset_import: ["": 17]>
        Quantized (fx, fs, fz) => (fd) {{ fq = QuantizeLinear(fx, fs, fz) fd = DequantizeLinear(fq, fs, fz) }}
    """)
    found = [(finding.rule, finding.layer) for finding in lint(ir.from_proto(model), INT8)]
    assert found == ([] if layer is None else [("zero-points are 0", layer)])
    if layer is None:
        compile_model(model.SerializeToString(), ORIN)
    else:
        with pytest.raises(TargetError, match="zero-point other than 0"):
            compile_model(model.SerializeToString(), ORIN)


def test_integer_operators_are_refused():
    x = ir.val("image", ir.DataType.INT8, ["N", 32, 8, 8])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21}, name="bad")
    scale, zero = initializer(graph, "s", scalar(0.1, np.float32)), initializer(graph, "z", scalar(0, np.int8))
    weight = initializer(graph, "w", np.ones((16, 32, 3, 3), dtype=np.int8))
    layer = ir.node("QLinearConv", [x, scale, zero, weight, scale, zero, scale, zero], name="layer")
    graph.append(layer)
    out = layer.outputs[0]
    out.name, out.dtype, out.shape = "out", ir.DataType.INT8, ir.Shape(["N", 16, 6, 6])
    graph.outputs.append(out)
    model = ir.Model(graph, ir_version=10)
    assert [finding.rule for finding in lint(model, INT8)] == ["quantizers, not integer operators"]
    with pytest.raises(TargetError, match="refuses the model"):
        compile_model(serialize(model), ORIN)


def test_scales_per_channel_of_an_activation_end_in_float_without_a_word():
    def change(parts):
        parts.update(scale=np.full(32, 0.1, np.float32), zero_point=np.zeros(32, np.int8))

    model = bad(change)
    assert [finding.rule for finding in lint(model, INT8)] == ["activations have one scale"]
    assert compiled(model) == {"layer": "Float"}


def test_scales_along_the_inputs_of_weights_end_in_float_without_a_word():
    """A DequantizeLinear without an axis has axis 1; a convolution's outputs are axis 0."""
    model = bad(lambda parts: parts.update(weight_scale=np.full(32, 0.1, np.float32)))
    weight = next(node for node in model.graph if node.name == "w")
    weight.attributes["axis"] = ir.AttrInt64("axis", 1)
    assert [(finding.rule, finding.refused) for finding in lint(model, INT8)] == [("layers on integers", False)]
    assert compiled(model) == {"layer": "Float"}


def test_unsigned_bytes_are_taken_for_signed_ones():
    """It builds: the linter is all that stands between a user and a clip at 127."""
    model = bad(lambda parts: parts.update(zero_point=scalar(0, np.uint8)))
    assert [finding.rule for finding in lint(model, INT8)] == ["codes are INT8"]
    assert compiled(model) == {"layer": "INT8"}


def test_an_unknown_compute_capability_is_refused():
    with pytest.raises(TargetError, match=r"has no compute capability 8\.7: it has 7\.5, 8\.0, 8\.6"):
        compile_model(serialize(bad(lambda parts: None)), "8.7")


# --- files that ONNX Runtime's quantizer wrote ----------------------------------------------------------

FOREIGN = {
    "as recommended for x86": (QuantType.QUInt8, {}),
    "symmetric": (QuantType.QInt8, {"ActivationSymmetric": True}),
    "symmetric, float biases": (QuantType.QInt8, {"ActivationSymmetric": True, "QuantizeBias": False}),
}


class Images(CalibrationDataReader):
    def __init__(self):
        self._images = iter(random_images(4))

    def get_next(self):
        image = next(self._images, None)
        return None if image is None else {"image": image[None].numpy()}


@pytest.fixture(scope="module")
def float_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("foreign") / "float.onnx"
    names = {"input_names": ["image"], "output_names": ["logits"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            small_network("resnet"), (torch.zeros(1, *SMALL_SHAPE),), file, dynamo=False, opset_version=17,
            dynamic_axes={name: {0: "N"} for name in ("image", "logits")}, **names,
        )  # fmt: skip
    return file


@pytest.mark.parametrize("name", FOREIGN)
def test_linter_and_compiler_agree_on_files_of_others(float_file, tmp_path, name):
    activation, options = FOREIGN[name]
    quantize_static(
        float_file, tmp_path / "q.onnx", Images(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=activation, weight_type=QuantType.QInt8, extra_options=options,
    )  # fmt: skip
    model = ir.load(tmp_path / "q.onnx")
    refused = [finding for finding in lint(model, INT8) if finding.refused]
    if name == "symmetric, float biases":
        assert not refused
        assert set(compiled(model).values()) == {"INT8"}
    else:
        assert "biases are float" in {finding.rule for finding in refused}
        with pytest.raises(TargetError, match="refuses the model"):
            compile_model(serialize(model), ORIN)
