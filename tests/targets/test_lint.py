"""The linter reads Q/DQ models from their graph alone: tiny models, each with one layer on the edge of 16 bits."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from support import random_images

from intraq_deploy.errors import TargetError
from intraq_deploy.targets.onnx.intervals import Intervals
from intraq_deploy.targets.onnx.lint import lint
from intraq_deploy.targets.onnx.lint_onnxruntime import PRODUCTS
from intraq_deploy.targets.onnx.lower import lower
from intraq_deploy.targets.profile import load_profile

AVX2, ARM64 = load_profile("onnxruntime-avx2"), load_profile("onnxruntime-arm64")
Q = "x_q = QuantizeLinear(x, s, z)"
DQ = "x_r = DequantizeLinear(x_q, s, z)"
WEIGHT = "w_r = DequantizeLinear(w, s)"
CONV = "y = Conv(x_r, w_r)"


def model(lines, weight=64, shape=(4, 3, 1, 1), zero_point=128, **more):
    """x [1, 3, 4, 4] -> y. Constants: s = 0.5, z, w INT8 of one value, and those in `more`."""
    head = '<ir_version: 10, opset_import: ["": 21]> g (float[1, 3, 4, 4] x) => (float[N, C, H, W] y)'
    loaded = ir.from_proto(onnx.parser.parse_model("\n".join([head, "{", *lines, "}"])))
    constants = {"s": np.float32(0.5), "z": np.uint8(zero_point), "w": np.full(shape, weight, dtype=np.int8)} | more
    values = {value.name: value for node in loaded.graph for value in node.inputs if value is not None}
    for name, array in constants.items():
        if name in values and values[name].producer() is None:
            values[name].const_value = tensor = ir.tensor(np.asarray(array), name=name)
            values[name].dtype, values[name].shape = tensor.dtype, tensor.shape
            loaded.graph.register_initializer(values[name])
    return loaded


def findings(lines, profile=AVX2, **constants):
    return lint(model(lines, **constants), profile)


@pytest.mark.parametrize(("weight", "found"), [(64, False), (65, True), (-65, True), (-64, False)])
def test_products_of_whole_bytes(weight, found):
    """2 x 255 x 64 = 32,640 fits 16 bits; 2 x 255 x 65 does not."""
    assert bool(findings([Q, DQ, WEIGHT, CONV], weight=weight)) == found
    assert not findings([Q, DQ, WEIGHT, CONV], weight=weight, profile=ARM64)


@pytest.mark.parametrize("scale", [0, -1, np.nan])
def test_scales_that_are_none_say_nothing_of_a_range(scale):
    """All that a byte can hold may occur."""
    assert findings([Q, DQ, "w_r = DequantizeLinear(w, ws)", CONV], weight=65, s=np.float32(scale), ws=np.float32(1))


def test_words_have_no_range():
    built = model(["e = Equal(t, t)", "y = Relu(x)"], t=np.array(["a"], dtype=object))
    (word, _), words = built.graph[0].inputs, Intervals(built)
    assert words[word] == (-np.inf, np.inf)


def test_a_finding_names_the_layer_the_values_and_the_remedy():
    (finding,) = findings([Q, DQ, WEIGHT, CONV], weight=127)
    assert (finding.rule, finding.layer) == (PRODUCTS, "y")
    assert "stored inputs up to 255 by weights up to 127" in finding.what
    assert "2 x 255 x 127 = 64,770" in finding.what
    assert "within 64, or store them as UINT8" in finding.what


@pytest.mark.parametrize(
    ("high", "zero_point", "found"), [(129, 128, False), (130, 128, True), (129, 129, False), (100, 130, True)]
)
def test_zeros_pad_with_the_zero_point_above_a_clip(high, zero_point, found):
    """2 x 129 x 127 = 32,766 fits 16 bits; 2 x 130 x 127 does not."""
    lines = ["x_c = QuantizeLinear(x, s, z)", "x_q = Clip(x_c, , high)", DQ, WEIGHT, CONV]
    assert bool(findings(lines, weight=127, high=np.uint8(high), zero_point=zero_point)) == found


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["a = QuantizeLinear(x, s, z)", "b = Clip(a, , c127)", "x_q = MaxPool<kernel_shape = [2, 2]>(b)", DQ], False),
        (["a = QuantizeLinear(x, s, z)", "b = Clip(a, , c127)", "x_q = Pad(b, pads, c200)", DQ], True),
        (["a = QuantizeLinear(x, s, z)", "b = Clip(a, , c127)", "x_q = Concat<axis = 1>(a, b)", DQ], True),
        ([Q, "b = DequantizeLinear(x_q, s, z)", "x_r = MaxPool<kernel_shape = [2, 2]>(b)"], True),
    ],
    ids=["pooled codes", "padding above the clip", "one of two unclipped", "pooled values"],
)
def test_operators_that_move_data(lines, found):
    constants = {"c127": np.uint8(127), "c200": np.uint8(200), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    shape = (4, 6, 1, 1) if "Concat" in str(lines) else (4, 3, 1, 1)
    assert bool(findings([*lines, WEIGHT, CONV], weight=127, zero_point=0, shape=shape, **constants)) == found


BEHIND = ["a = QuantizeLinear(x, s, z)", "b = Clip(a, , c127)", "c = DequantizeLinear(b, s, z)"]
FUNCTIONS = {
    "global average": (["d = GlobalAveragePool(c)"], 0.5, 127),
    "windows": (["d = AveragePool<kernel_shape = [2, 2]>(c)"], 0.5, 127),
    "windows on a finer grid": (["d = AveragePool<kernel_shape = [2, 2]>(c)"], 0.4, 159),
    "sum": (["d = Add(c, c)"], 1.0, 127),
    "product": (["d = Mul(c, c)"], 32.0, 126),
    "sigmoid": (["d = Sigmoid(c)"], 1 / 127, 127),
    "swish": (["e = Sigmoid(c)", "d = Mul(c, e)"], 0.5, 127),
    "hard swish": (["d = HardSwish(c)"], 0.5, 127),
    "gelu": (["d = Gelu(c)"], 0.5, 127),
    "convolution": (["v_r = DequantizeLinear(v, third)", "d = Conv(c, v_r)"], 0.5, 127),
    "falling below zero": (["e = Add(c, low)", "d = LeakyRelu<alpha = -1.0>(e)"], 0.5, 127),
    "power without end": (["e = Mul(c, huge)", "d = Pow(e, thirty)"], 1.0, 255),
    "root": (["d = Sqrt(c)"], 0.5, 16),
    "absolute value": (["e = Add(c, minus)", "d = Abs(e)"], 0.5, 73),
    "square": (["e = Add(c, minus)", "d = Pow(e, two)"], 32.0, 42),
    "cube": (["d = Pow(c, three)"], 4096.0, 63),
    "anything else": (["d = Floor(c)"], 0.5, 255),
}


@pytest.mark.parametrize(("lines", "scale", "largest"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_what_an_operator_leaves_of_its_inputs(lines, scale, largest):
    """No Clip says it: means, sums, functions cannot exceed what their inputs allow."""
    constants = {
        "c127": np.uint8(127), "t": np.float32(scale), "v": np.ones((3, 3, 1, 1), np.int8),
        "third": np.float32(1 / 3), "minus": np.float32(-27), "low": np.float32(-63.5), "huge": np.float32(1e36),
        "two": np.float32(2), "three": np.float32(3), "thirty": np.float32(30),
    }  # fmt: skip
    end = ["x_q = QuantizeLinear(d, t, z)", "x_r = DequantizeLinear(x_q, t, z)", WEIGHT, CONV]
    built = model([*BEHIND, *lines, *end], zero_point=0, **constants)
    graph = {value.name: value for node in built.graph for value in node.outputs}
    ir.passes.common.ShapeInferencePass()(built)
    assert Intervals(built)[graph["x_q"]][1] == largest
    assert bool(findings([*BEHIND, *lines, *end], zero_point=0, weight=127, **constants)) == (largest > 128)
    runs = ReferenceEvaluator(ir.to_proto(model([*BEHIND, *lines, *end], zero_point=0, **constants)))
    with np.errstate(invalid="ignore", over="ignore"):  # a power without end
        stored = runs.run(None, {"x": random_images(1, (3, 4, 4)).numpy() * 100}, intermediate=True)["x_q"]
    assert stored.max() <= largest


NIBBLES = [
    "w_i = Cast<to = 6>(nibbles)",
    "w_s = Sub(w_i, eight)",
    "w_b = Cast<to = 3>(w_s)",
    "w_r = DequantizeLinear(w_b, s)",
]


@pytest.mark.parametrize(("times", "found"), [(1, False), (10, True)])
def test_weights_behind_constant_operators(times, found):
    """UINT4 -> INT32 -> minus 8 -> INT8 has -8 to 7; multiplied by ten it has -80."""
    nibbles = np.arange(12).reshape(4, 3, 1, 1).astype(ml_dtypes.uint4)
    lines = [*NIBBLES[:1], "w_m = Mul(w_i, times)", "w_s = Sub(w_m, eight)", *NIBBLES[2:]]
    constants = {"nibbles": nibbles, "eight": np.int32(8), "times": np.int32(times)}
    assert bool(findings([Q, DQ, *lines, CONV], **constants)) == found


@pytest.mark.parametrize(
    "lines",
    [
        [Q, DQ, "w_r = DequantizeLinear(w_u, s, w_z)", CONV],
        ["x_q = QuantizeLinear(x, s, z_s)", "x_r = DequantizeLinear(x_q, s, z_s)", WEIGHT, CONV],
        [WEIGHT, "y = Conv(x, w_r)"],
        [Q, DQ, "y = Conv(x_r, w_f)"],
        [Q, DQ, "w_r = DequantizeLinear(w_d, s)", "y = Conv<group = 3>(x_r, w_r)"],
    ],
    ids=["unsigned weights", "signed inputs", "float inputs", "float weights", "depthwise"],
)
def test_what_the_rule_is_not_about(lines):
    constants = {
        "z_s": np.int8(0), "w_u": np.full((4, 3, 1, 1), 255, np.uint8), "w_z": np.uint8(128),
        "w_f": np.ones((4, 3, 1, 1), np.float32), "w_d": np.full((3, 1, 1, 1), 127, np.int8),
    }  # fmt: skip
    assert not findings(lines, weight=127, **constants)


def test_matrix_products_and_weights_quantized_in_the_graph():
    lines = ["w_q = QuantizeLinear(w_f, s, z_s)", "w_r = DequantizeLinear(w_q, s, z_s)", "y = MatMul(x_r, w_r)"]
    constants = {"w_f": np.full((4, 4), 63.5, np.float32), "z_s": np.int8(0)}
    (finding,) = findings([Q, DQ, *lines], **constants)
    assert "weights up to 127" in finding.what


@pytest.mark.parametrize("network", ["resnet", "mobilenet"])
def test_lowering_refuses_what_the_linter_finds(frozen, network):
    _, program = frozen(network, "integer", 8, 8)
    refused = r"compute wrong integers: \S+ multiplies stored inputs up to 255 by weights up to 127"
    with pytest.raises(TargetError, match=refused):
        lower(program, AVX2, {})
    for profile in (load_profile("onnxruntime"), ARM64):
        lower(program, profile, {})
    lower(frozen(network, "integer", 4, 8)[1], AVX2, {})
