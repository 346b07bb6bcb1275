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


def findings(lines, opset=17, profile=PROFILE, **more):
    """Rules broken by x [1, 3, 4, 4] -> y with the constants s, z, w, ws and those in `more`."""
    head = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[1, 3, 4, 4] x) => (float[N, C, H, W] y)'
    model = ir.from_proto(onnx.parser.parse_model("\n".join([head, "{", *lines, "}"])))
    constants = {
        "s": np.float32(0.5), "z": np.int8(0), "w": np.ones((4, 3, 1, 1), np.int8), "ws": np.float32(0.25),
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


@pytest.mark.parametrize(("opset", "profile", "found"), [(20, "tensorrt-int8", []), (17, "tensorrt8-int8", [])])
def test_opsets_that_it_reads(opset, profile, found):
    assert findings([Q, DQ, W, "y = Conv(d, wd)"], opset, load_profile(profile)) == found


@pytest.mark.parametrize(("opset", "profile"), [(21, "tensorrt-int8"), (18, "tensorrt8-int8")])
def test_opsets_that_it_does_not_read(opset, profile):
    assert findings([Q, DQ, W, "y = Conv(d, wd)"], opset, load_profile(profile)) == [("opset", True)]


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


def test_weights_quantized_in_the_graph_are_fine():
    lines = [Q, DQ, "wq = QuantizeLinear(wf, ws, z)", "wd = DequantizeLinear(wq, ws, z)", "y = Conv(d, wd)"]
    assert findings(lines, wf=np.ones((4, 3, 1, 1), np.float32)) == []


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
