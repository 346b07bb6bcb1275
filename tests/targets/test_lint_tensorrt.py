"""TensorRT's rules on files that nobody here wrote; test_tensorrt_rtx.py holds those that a compiler can confirm."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from intraq_deploy.targets.onnx.lint import lint
from intraq_deploy.targets.profile import load_profile

PROFILE = load_profile("tensorrt-int8")
Q, DQ = "q = QuantizeLinear(x, s, z)", "d = DequantizeLinear(q, s, z)"
W = "wd = DequantizeLinear(w, ws)"
IN_GRAPH = ["wq = QuantizeLinear(wf, ws, z)", "wd = DequantizeLinear(wq, ws, z)"]
"""Weights for TensorRT 8."""


def findings(lines, opset=17, profile=PROFILE, **more):
    """Rules broken by x [1, 3, 4, 4] -> y with the constants s, z, w, ws, wf and those in `more`."""
    head = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[1, 3, 4, 4] x) => (float[N, C, H, W] y)'
    model = ir.from_proto(onnx.parser.parse_model("\n".join([head, "{", *lines, "}"])))
    constants = {
        "s": np.float32(0.5), "z": np.int8(0), "w": np.ones((4, 3, 1, 1), np.int8), "ws": np.float32(0.25),
        "wf": np.ones((4, 3, 1, 1), np.float32),
    } | more  # fmt: skip
    values = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, array in constants.items():
        if name in values and values[name].producer() is None:
            values[name].const_value = tensor = ir.tensor(np.asarray(array), name=name)
            values[name].dtype, values[name].shape = tensor.dtype, tensor.shape
            model.graph.register_initializer(values[name])
    return [(finding.rule, finding.refused) for finding in lint(model, profile)]


def test_a_good_layer():
    assert findings([Q, DQ, W, "y = Conv(d, wd)"]) == []


@pytest.mark.parametrize(
    ("opset", "profile", "found"),
    [
        (18, "tensorrt-int8", []),
        (20, "tensorrt-int8", [("opset of calibrators", False)]),
        (17, "tensorrt8-int8", []),
    ],
)
def test_opsets_that_it_reads(opset, profile, found):
    assert findings([Q, DQ, *IN_GRAPH, "y = Conv(d, wd)"], opset, load_profile(profile)) == found


@pytest.mark.parametrize(("opset", "profile"), [(21, "tensorrt-int8"), (18, "tensorrt8-int8")])
def test_opsets_that_it_does_not_read(opset, profile):
    assert findings([Q, DQ, *IN_GRAPH, "y = Conv(d, wd)"], opset, load_profile(profile)) == [("opset", True)]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("profile", ["tensorrt-int8", "tensorrt-rtx"])
def test_pools_without_dilations(op, profile):
    pools = {value: f"y = {op}<kernel_shape = [2, 2], dilations = [1, {value}]>(x)" for value in (1, 2)}
    assert findings([pools[1]], 19, load_profile(profile))[1:] == []
    assert findings([pools[2]], 19, load_profile(profile))[-1] == ("pools without dilations", True)


def test_pools_with_one_output():
    assert findings(["y, i = MaxPool<kernel_shape = [2, 2]>(x)"]) == [("pools with one output", True)]


@pytest.mark.parametrize(("profile", "found"), [
    ("tensorrt-int8", [("dequantize, then move", False)]), ("tensorrt-rtx", []),
])  # fmt: skip
def test_codes_that_are_moved_before_they_are_dequantized(profile, found):
    moved = [Q, "t = Transpose<perm = [0, 2, 3, 1]>(q)", "y = DequantizeLinear(t, s, z)"]
    assert findings(moved, profile=load_profile(profile)) == found
    in_front = ["t = Transpose<perm = [0, 2, 3, 1]>(x)", "q = QuantizeLinear(t, s, z)", "y = DequantizeLinear(q, s, z)"]
    assert findings(in_front, profile=load_profile(profile)) == []


def test_float_layers_are_slow_not_wrong():
    assert findings([W, "y = Conv(x, wd)"]) == [("layers on integers", False)]
    assert findings([Q, DQ, "y = Conv(d, f)"], f=np.ones((4, 3, 1, 1), np.float32)) == [("layers on integers", False)]


def test_one_clip():
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    layer = [W, DQ, "y = Conv(d, wd)"]
    assert findings(["c = Clip(x, low, high)", "q = QuantizeLinear(c, s, z)", DQ, W, "y = Conv(d, wd)"], **bounds) == []
    two = ["r = Relu(x)", "c = Clip(r, low, high)", "q = QuantizeLinear(c, s, z)", *reversed(layer[:2]), layer[2]]
    assert findings(two, **bounds) == [("one Clip", False)]


def test_sums_want_both_branches_quantized():
    assert findings([Q, DQ, W, "c = Conv(d, wd)", "y = Add(c, d)"]) == []
    assert findings([Q, DQ, W, "c = Conv(d, wd)", "y = Add(c, x)"]) == [("sums on integers", False)]


@pytest.mark.parametrize(("steps", "found"), [((1 << 24) - 1, []), (1 << 24, [("biases below 2^24", True)])])
def test_biases_below_2_24(steps, found):
    """One step of the accumulator is 0.5 x 0.25."""
    bias = np.array([0, 0, -steps * 0.125, 0], dtype=np.float32)
    assert findings([Q, DQ, W, "y = Conv(d, wd, b)"], b=bias) == found


def test_biases_of_scales_per_channel():
    scales = np.array([0.25, 0.25, 0.25, 2.0**-20], dtype=np.float32)
    lines = [Q, DQ, "wd = DequantizeLinear<axis = 0>(w, ws)", "y = Conv(d, wd, b)"]
    assert findings(lines, ws=scales, b=np.array([9, 9, 9, 1], np.float32)) == []
    assert findings(lines, ws=scales, b=np.array([9, 9, 9, 9], np.float32)) == [("biases below 2^24", True)]


@pytest.mark.parametrize(
    ("layer", "scales", "shape"),
    [
        ("wd = DequantizeLinear<axis = 1>(w, ws)\ny = ConvTranspose<group = 3>(d, wd, b)", 2, (3, 2, 1, 1)),
        ("wd = DequantizeLinear<axis = 0>(w, ws)\ny = ConvTranspose(d, wd, b)", 3, (3, 4, 1, 1)),
        ("wr = DequantizeLinear<axis = 0>(w, ws)\nwd = Transpose(wr)\ny = Gemm(d, wd, b)", 6, (6, 3)),
    ],
    ids=["groups", "inputs", "turned"],
)
def test_biases_of_scales_that_are_not_one_for_each(layer, scales, shape):
    """Nothing is said of what cannot be told apart."""
    lines = [Q, DQ, *layer.split("\n")]
    outputs = {"groups": 6, "inputs": 4, "turned": 6}["groups" if "group" in layer else "inputs"]
    constants = {"w": np.ones(shape, np.int8), "ws": np.full(scales, 0.25, np.float32)}
    for bias in (np.ones(outputs, np.float32), np.full(outputs, 2.0**24, np.float32)):
        assert "biases below 2^24" not in [rule for rule, _ in findings(lines, b=bias, **constants)]


@pytest.mark.parametrize("op", ["QLinearConv", "ConvInteger", "com.microsoft.QGemm", "com.microsoft.QLinearAdd"])
def test_integer_operators_of_all_kinds(op):
    """Whatever their inputs are."""
    text = (
        f'<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g (int8[N] x) => (int8[N] y) {{ y = {op}(x, x) }}'
    )
    found = lint(ir.from_proto(onnx.parser.parse_model(text)), PROFILE)
    assert ("quantizers, not integer operators", True) in [(finding.rule, finding.refused) for finding in found]


def test_4_bit_weights_of_an_unknown_size():
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[1, 32] x, int4[N, K] w) => (float[1, N] y)
    <float s = {0.5}, int8 z = {0}, float ws = {0.25}>
    { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) wd = DequantizeLinear(w, ws)
      y = Gemm<transB = 1>(d, wd) }"""
    lint(ir.from_proto(onnx.parser.parse_model(text)), load_profile("tensorrt-int4"))


def test_weights_quantized_in_the_graph_are_fine():
    assert findings([Q, DQ, *IN_GRAPH, "y = Conv(d, wd)"]) == []


@pytest.mark.parametrize(("weight", "broken"), [
    ("wd = DequantizeLinear(w, ws, z)", ["float weights"]),
    ("wd = DequantizeLinear(w, ws)", ["float weights", "zero-points are given"]),
])  # fmt: skip
def test_tensorrt_8_wants_float_weights_and_zero_points(weight, broken):
    """Later versions take both."""
    lines = [Q, DQ, weight, "y = Conv(d, wd)"]
    assert findings(lines, profile=load_profile("tensorrt8-int8")) == [(rule, True) for rule in broken]
    assert findings(lines) == []


NESTED = """
<ir_version: 10, opset_import: ["": 17, "own": 1]>
g (float[1, 3, 4, 4] x, bool c) => (float[N, C, H, W] y)
<float s = {0.5}, int8 z = {0}, uint8 u = {0}, int8[1, 3, 1, 1] w = {1, 1, 1}, float ws = {0.25}>
{
    a = own.Quantized(x, s, z)
    b = own.Twice(a, s, u)
    y = If (c) <
        then_branch = t () => (float[1, 1, 4, 4] ty) <float half = {0.25}> {
            step = Add(half, half)
            q = QuantizeLinear(b, step, u)
            d = DequantizeLinear(q, step, u)
            wd = DequantizeLinear(w, ws)
            ty = Conv(d, wd)
        },
        else_branch = e () => (float[1, 1, 4, 4] ey) {
            wd = DequantizeLinear(w, ws)
            ey = If (c) <
                then_branch = ee () => (float[1, 1, 4, 4] eey) { eey = Conv(x, wd) },
                else_branch = eg () => (float[1, 1, 4, 4] egy) { bd = own.Quantized(x, s, z) egy = Conv(bd, wd) }
            >
        }
    >
}
<domain: "own", opset_import: ["": 17]>
Quantized (x, s, z) => (d) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) }
<domain: "own", opset_import: ["": 17, "own": 1]>
Twice (x, s, z) => (y) { m = own.Quantized(x, s, z) y = own.Quantized(m, s, z) }
"""


def places(text, profile=PROFILE):
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return [(finding.rule, finding.layer) for finding in lint(ir.from_proto(model), profile)]


def test_subgraphs_and_functions():
    """What is wrong depends on the call, and the names say which it is. The file is not changed."""
    assert places(NESTED) == [
        ("codes are INT8", "q in Quantized (m) in Twice (b)"),
        ("codes are INT8", "q in Quantized (y) in Twice (b)"),
        ("codes are INT8", "q in then_branch of y"),
        ("layers on integers", "eey in then_branch of ey in else_branch of y"),
    ]
    model = ir.from_proto(onnx.parser.parse_model(NESTED))
    before = ir.to_proto(model).SerializeToString()
    lint(model, PROFILE)
    assert ir.to_proto(model).SerializeToString() == before


def test_rules_of_tensorrt_8_reach_into_subgraphs():
    found = places(NESTED, load_profile("tensorrt8-int8"))
    assert ("float weights", "wd in then_branch of y") in found
    assert ("zero-points are given", "wd in else_branch of y") in found


def test_the_body_of_a_loop():
    assert places("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 3] x) => (float[1, 3] y) <int64 n = {3}, bool go = {1}, float s = {0.5}, int8 z = {3}>
        {
            y = Loop (n, go, x) <body = b (int64 i, bool on, float[1, 3] state) => (bool next, float[1, 3] after) {
                next = Identity(on)
                q = QuantizeLinear(state, s, z)
                after = DequantizeLinear(q, s, z)
            }>
        }
    """) == [("zero-points are 0", "q in body of y")]


def test_subgraphs_of_functions():
    assert places("""
        <ir_version: 10, opset_import: ["": 17, "own": 1]>
        g (float[1, 3] x, bool c) => (float[1, 3] y) <float s = {0.5}, int8 z = {3}> { y = own.Maybe(x, c, s, z) }
        <domain: "own", opset_import: ["": 17]>
        Maybe (x, c, s, z) => (y) {
            y = If (c) <
                then_branch = t () => (float[1, 3] ty) { q = QuantizeLinear(x, s, z) ty = DequantizeLinear(q, s, z) },
                else_branch = e () => (float[1, 3] ey) { ey = Identity(x) }
            >
        }
    """) == [("zero-points are 0", "q in then_branch of y in Maybe (y)")]


def test_a_function_of_another_opset_is_named():
    assert places("""
        <ir_version: 10, opset_import: ["": 17, "own": 1]>
        g (float[1, 3] x) => (float[1, 3] y) { y = own.Same(x) }
        <domain: "own", opset_import: ["": 16]>
        Same (x) => (y) { y = Identity(x) }
    """) == [("functions that can be inlined", "y")]


def test_integer_operators_are_no_quantizers():
    assert findings(["y = QLinearConv(x, s, z, w, ws, z, s, z)"]) == [("quantizers, not integer operators", True)]


def test_a_zero_point_of_the_second_half_of_a_pair():
    """A QuantizeLinear with 0 in front of a DequantizeLinear with 3."""
    lines = [Q, "d = DequantizeLinear(q, s, other)", W, "y = Conv(d, wd)"]
    assert findings(lines, other=np.int8(3)) == [("zero-points are 0", True)]


def test_a_thousand_operators_in_front_of_a_quantizer():
    relus = ["r0 = Relu(x)", *(f"r{i + 1} = Relu(r{i})" for i in range(1500))]
    assert findings([*relus, "q = QuantizeLinear(r1500, s, z)", DQ, W, "y = Conv(d, wd)"]) == [("one Clip", False)]


def test_constants_of_old_opsets():
    """Unsqueeze had its axes as an attribute until opset 13."""
    lines = [Q, DQ, W, "c = Conv(d, wd)", "u = Unsqueeze<axes = [1, 2]>(b)", "y = Add(c, u)"]
    assert findings(lines, opset=11, b=np.ones(4, np.float32)) == []


def test_data_outside_the_file(tmp_path, monkeypatch):
    """Looked for beside the model, wherever the command is run; a missing file is named."""
    from intraq_deploy.errors import DataError
    from intraq_deploy.pipeline.linting import lint_file

    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape])
        for name, shape in (("x", (3, 8, 8)), ("y", (4, 6, 6)))
    )
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    monkeypatch.chdir("/")
    report = lint_file(tmp_path / "m.onnx", "tensorrt-int8")
    assert [finding.rule for finding in report.findings] == ["layers on integers"]
    (tmp_path / "m.data").unlink()
    with pytest.raises(DataError, match=r"m\.data"):
        lint_file(tmp_path / "m.onnx", "tensorrt-int8")


def test_block_sizes():
    """Of 128, 64, 32 and 16, dividing the inputs; 48 inputs."""
    head = [
        '<ir_version: 10, opset_import: ["": 21]> g (float16[N, 48] x) => (float16[N, 4] y)', "{",
        "wd = DequantizeLinear<axis = 1, block_size = BLOCK>(w, ws)", "y = Gemm<transB = 1>(x, wd)", "}",
    ]  # fmt: skip
    for block, good in ((16, True), (24, False), (48, False)):
        model = ir.from_proto(onnx.parser.parse_model("\n".join(head).replace("BLOCK", str(block))))
        values = {value.name: value for node in model.graph for value in node.inputs}
        tensors = {
            "w": ir.Tensor(np.ones((4, 48), np.int8), ir.DataType.INT4, name="w"),
            "ws": ir.tensor(np.ones((4, 48 // block), np.float16), name="ws"),
        }
        for name, tensor in tensors.items():
            values[name].const_value, values[name].dtype, values[name].shape = tensor, tensor.dtype, tensor.shape
            model.graph.register_initializer(values[name])
        rules = [finding.rule for finding in lint(model, load_profile("tensorrt-int4"))]
        assert rules == ([] if good else ["INT4 blocks"]), block
