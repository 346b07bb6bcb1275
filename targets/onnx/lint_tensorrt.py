"""The linter's rules for TensorRT: layers that it refuses, computes wrongly, or silently leaves in float.

"measured" is TensorRT for RTX 1.7.1, whose parser and compiler run without a GPU (tests/targets/test_tensorrt_rtx.py
holds each such rule); "documented" is NVIDIA's documentation of TensorRT, which says the same of versions 8 to 11;
"read" is the source of its parser, onnx-tensorrt; "doubtful" is what others reported of a version near by.
"""

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from intraq_deploy.program.limits import LARGEST_BIAS
from intraq_deploy.targets.onnx.findings import LintFinding, name_of
from intraq_deploy.targets.onnx.intervals import constant, dequantizer, is_constant, source
from intraq_deploy.targets.onnx.places import calls_in
from intraq_deploy.targets.profile import TargetProfile

BLOCKS = (128, 64, 32, 16)
"""TensorRT's block sizes of INT4 weights, the cheapest first."""
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LINEAR = ("Gemm", "MatMul")
_POOLS = ("AveragePool", "LpPool", "MaxPool")
_MOVES = ("Reshape", "Slice", "Transpose")
_DOMAINS = ("", "ai.onnx", "com.microsoft")
"""The domains of the operators that are looked at. ONNX Runtime's quantizer writes QuantizeLinear of the last one."""
_INTEGER = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm", "QLinear")
"""The first letters of the names of integer operators. ONNX Runtime has many of the last kind that ONNX has not."""
_INT4 = (ir.DataType.INT4, ir.DataType.UINT4)
_KNOWN = (ir.DataType.INT8, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN)
"""The types that TensorRT quantizes to."""

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_INT8_CONSTANTS = (
    "doubtful: TensorRT 8.4 said 'invalid weights type of Int8' (github.com/NVIDIA/TensorRT/issues/2163); what 8.5 and "
    "8.6 do is not known here"
)
_OPSET_OF_FAILING_CALIBRATOR = 19
_MOVED_CODES = "doubtful: reported of 10.16 on Orin, whose compiler does not infer the type there"
_GIVEN_ZERO_POINTS = "read: the parser of 8.x, 'This version of TensorRT requires 3 inputs'"
_Rule = Callable[[ir.Node], Iterator[LintFinding]]


def findings(model: ir.Model, profile: TargetProfile) -> list[LintFinding]:
    """The findings on a model, in the order of the rules and of the graph.

    model: with inferred types, functions inlined, and names that say in which subgraph a node is.
    """
    found = [*_opset(model, profile), *_calibrator(model, profile), *_functions(model)]
    nodes = [node for node in model.graph.all_nodes() if node.domain in _DOMAINS]
    special = _RULES_OF_8 if _is_version_8(profile) else _RULES_OF_10 if profile.runtime == "tensorrt" else ()
    for rule in (*_RULES, *special):
        found += [finding for node in nodes for finding in rule(node)]
    return found


def _is_version_8(profile: TargetProfile) -> bool:
    return profile.versions is not None and profile.versions[0].startswith("8.")


def _opset(model: ir.Model, profile: TargetProfile) -> Iterator[LintFinding]:
    opset = model.opset_imports.get("", 0)
    if profile.largest_opset is not None and opset > profile.largest_opset:
        what = (
            f"the model has opset {opset}, and {profile.name} reads up to {profile.largest_opset}: export it with that "
            "one"
        )
        yield LintFinding("opset", "the model", what, "documented: ONNX operator support by TensorRT version")


def _calibrator(model: ir.Model, profile: TargetProfile) -> Iterator[LintFinding]:
    opset, largest = model.opset_imports.get("", 0), profile.largest_opset or 0
    if profile.calibration_cache is not None and _OPSET_OF_FAILING_CALIBRATOR <= opset <= largest:
        what = (
            f"the model has opset {opset}, with which the INT8 calibrator of TensorRT 10.3 fails on Orin: for a "
            "calibration cache export it with 17; quantizers in the file need no calibrator"
        )
        yield LintFinding("opset of calibrators", "the model", what, "doubtful: reported of 10.3, checkSanity", False)


def _functions(model: ir.Model) -> Iterator[LintFinding]:
    """The calls of functions that could not be inlined."""
    for node in calls_in(model.graph, model):
        what = (
            f"{name_of(node)} calls the function {node.op_type}, which is not looked into, because it has another "
            "opset than the model or takes a graph: inline it first (onnx.inliner)"
        )
        yield LintFinding("functions that can be inlined", name_of(node), what, "a limit of this linter", False)


def _zero_points(node: ir.Node) -> Iterator[LintFinding]:
    zero_point = constant(node.inputs[2]) if node.op_type in _QUANTIZERS and len(node.inputs) > 2 else None
    if zero_point is not None and zero_point.any() and not _as_quantized(node, 2):
        what = (
            f"{name_of(node)} has the zero-point {int(zero_point.flat[np.flatnonzero(zero_point)[0]])}, and TensorRT "
            "only knows 0: store signed codes; up to 7 bits any range fits them"
        )
        yield LintFinding("zero-points are 0", name_of(node), what, "measured: the parser's shiftIsAllZeros")


def _types(node: ir.Node) -> Iterator[LintFinding]:
    stored = _stored_type(node) if _quantizes(node) else None
    if stored is None or stored in _KNOWN:
        return
    name = name_of(node)
    if stored == ir.DataType.INT32:
        what = f"{name} dequantizes INT32, which TensorRT refuses: give the bias as float values on the same grid"
        yield LintFinding("biases are float", name, what, "measured: 'input has type Int32 but must have type ...'")
    elif stored == ir.DataType.UINT8:
        what = f"{name} stores UINT8, which TensorRT takes for INT8, with a warning, and clips at 127: store INT8"
        yield LintFinding("codes are INT8", name, what, "measured: the parser's 'Defaulting to INT8 instead'")
    else:
        what = f"{name} stores {stored.name}, which TensorRT does not read: store INT8"
        yield LintFinding("codes are INT8", name, what, "documented: data types of Quantize and Dequantize layers")


def _activation_scales(node: ir.Node) -> Iterator[LintFinding]:
    if node.op_type != "QuantizeLinear" or is_constant(node.inputs[0]):
        return
    scale = constant(node.inputs[1])
    if scale is None or scale.ndim:
        kind = "a scale that is no constant" if scale is None else f"a scale of shape {list(scale.shape)}"
        what = (
            f"{name_of(node)} quantizes an activation with {kind}: the layers behind it run in float; give it a scalar"
        )
        yield LintFinding(
            "activations have one scale", name_of(node), what, "measured: builds, and runs in float", False
        )


def _scales(node: ir.Node) -> Iterator[LintFinding]:
    scale = constant(node.inputs[1]) if node.op_type in _QUANTIZERS else None
    if scale is not None and not (scale > 0).all() and not _as_quantized(node, 1):
        worst = scale.flat[int(np.flatnonzero(~(scale > 0))[0])]
        what = f"{name_of(node)} has the scale {worst:g}, and TensorRT takes positive ones only: calibrate it again"
        yield LintFinding(
            "scales are positive", name_of(node), what, "measured: 'Scale coefficients must all be positive'"
        )


def _operators(node: ir.Node) -> Iterator[LintFinding]:
    if node.op_type.startswith(_INTEGER):
        what = f"{name_of(node)} is a {node.op_type}, which TensorRT does not read: write QuantizeLinear and "
        what += "DequantizeLinear around a float operator"
        yield LintFinding("quantizers, not integer operators", name_of(node), what, "measured: the parser refuses it")


def _pools(node: ir.Node) -> Iterator[LintFinding]:
    if node.op_type not in _POOLS:
        return
    name, dilations = name_of(node), node.attributes.get_ints("dilations", [])
    if any(dilation != 1 for dilation in dilations):
        what = f"{name} is a {node.op_type} with dilations {list(dilations)}, and TensorRT only knows 1: pool without"
        yield LintFinding("pools without dilations", name, what, "measured: 'does not support dilations other than 1'")
    if len(node.outputs) > 1:
        what = f"{name} is a {node.op_type} that also gives indices, which TensorRT does not: take its values alone"
        yield LintFinding("pools with one output", name, what, "measured: the parser refuses it")


def _moved(node: ir.Node) -> Iterator[LintFinding]:
    """The activations that are dequantized behind what moves their codes."""
    if node.op_type != "DequantizeLinear":
        return
    before = _producer(node, 0)
    if before is not None and before.op_type in _MOVES:
        what = (
            f"{name_of(node)} dequantizes behind a {before.op_type}, which TensorRT 10.16 may fail to compile on Orin: "
            "put it in front"
        )
        yield LintFinding("dequantize, then move", name_of(node), what, _MOVED_CODES, False)


def _int4(node: ir.Node) -> Iterator[LintFinding]:
    weight = _dequantize(node, 1)
    if weight is None or weight.inputs[0] is None or weight.inputs[0].dtype not in _INT4:
        return
    name = name_of(node)
    if node.op_type not in _LINEAR and _dequantize(node, 0) is not None:
        what = f"{name} is a convolution with 4-bit weights, for which no TensorRT has a kernel: store them as INT8"
        yield LintFinding(
            "no INT4 convolutions", name, what, "measured: MyelinCheckException; documented: INT4 is for GEMM"
        )
        return
    block, inputs = weight.attributes.get_int("block_size", 0), _blocked(weight)
    if inputs is not None and (block not in (0, *BLOCKS) or (block and inputs % block)):
        sizes = ", ".join(map(str, sorted(BLOCKS)))
        what = f"{name} has INT4 weights in blocks of {block} along {inputs} inputs: TensorRT has blocks of {sizes}"
        yield LintFinding("INT4 blocks", name, f"{what}, which divide the inputs", "documented: block quantization")
    if block and _dequantize(node, 0) is not None:
        what = f"{name} has INT4 weights in blocks behind quantized activations: INT4 is weight-only, give it float16"
        yield LintFinding(
            "INT4 is weight-only", name, what, "measured: MyelinCheckException operand.h CHECK(is_constant())"
        )


def _biases(node: ir.Node) -> Iterator[LintFinding]:
    """The biases that float32 cannot hold on the accumulator's grid, where a runtime divides by its step."""
    x, weight = (_dequantize(node, index) for index in (0, 1))
    bias = constant(node.inputs[2]) if node.op_type in _LAYERS and len(node.inputs) > 2 else None
    if x is None or weight is None or bias is None:
        return
    scale_x, scale_w = constant(x.inputs[1]), constant(weight.inputs[1])
    if scale_x is None or scale_w is None or scale_x.size > 1 or scale_w.ndim > 1 or not _by_output(node, weight):
        return
    if scale_w.size > 1 and (scale_w.size != bias.size or _producer(node, 1) is not weight):
        return  # by group, or along what a Transpose turns: which output has which is not followed
    steps = scale_x.reshape(-1).astype(np.float64) * scale_w.reshape(-1)
    with np.errstate(all="ignore"):  # a scale of 0 is another rule's
        largest = float(np.abs(bias.reshape(-1).astype(np.float64) / steps).max(initial=0))
    if largest >= LARGEST_BIAS:
        what = (
            f"{name_of(node)} has a bias of {largest:.3g} steps of its accumulator, above 2^24, where float32 is not "
            "exact: raise the weight scale of that channel"
        )
        yield LintFinding("biases below 2^24", name_of(node), what, "float32 holds every integer only up to 2^24")


def _one_clip(node: ir.Node) -> Iterator[LintFinding]:
    clip = _producer(node, 0) if node.op_type == "QuantizeLinear" else None
    if clip is None or clip.op_type not in ("Clip", "Relu"):
        return
    before = _producer(clip, 0)
    if before is not None and before.op_type in ("Clip", "Relu"):
        what = f"{name_of(node)} stands behind {before.op_type} and {clip.op_type}: one Clip with the narrower bounds"
        yield LintFinding("one Clip", name_of(node), f"{what} fuses better", "documented: fusion of activations", False)


def _float_layers(node: ir.Node) -> Iterator[LintFinding]:
    if node.op_type not in _LAYERS or _stored_in_int4(node):
        return
    missing = [part for index, part in enumerate(("input", "weights")) if _dequantize(node, index) is None]
    weight, why = _dequantize(node, 1), None
    if missing:
        why = f"no DequantizeLinear is in front of its {' and '.join(missing)}"
    elif weight is not None and not _by_output(node, weight):
        why = "the scales of its weights are not one, nor one for each output"
    if why is not None:
        what = f"{name_of(node)} runs in float: {why}"
        yield LintFinding(
            "layers on integers", name_of(node), what, "measured: its inputs are Float in the engine", False
        )


def _residuals(node: ir.Node) -> Iterator[LintFinding]:
    if node.op_type != "Add" or any(is_constant(value) for value in node.inputs):
        return
    sources = [source(value) for value in node.inputs]
    if not any(producer is not None and producer.op_type in (*_LAYERS, "DequantizeLinear") for producer in sources):
        return
    for value, producer in zip(node.inputs, sources, strict=True):
        if producer is None or producer.op_type not in (*_LAYERS, "DequantizeLinear"):
            what = f"{name_of(node)} adds {getattr(value, 'name', None)} in float: quantize this branch too"
            yield LintFinding("sums on integers", name_of(node), what, "documented: Q/DQ on the residual input", False)


def _int8_constants(node: ir.Node) -> Iterator[LintFinding]:
    """The INT8 constants, in whose place TensorRT 8 wants float32 -> QuantizeLinear -> DequantizeLinear."""
    if node.op_type != "DequantizeLinear" or not _quantizes(node) or _stored_type(node) != ir.DataType.INT8:
        return
    before = source(node.inputs[0])
    if before is None or before.op_type != "QuantizeLinear":
        what = (
            f"{name_of(node)} dequantizes an INT8 constant, which TensorRT 8 may refuse: store float32 values with a "
            "QuantizeLinear behind them"
        )
        yield LintFinding("float weights", name_of(node), what, _INT8_CONSTANTS)


def _given_zero_points(node: ir.Node) -> Iterator[LintFinding]:
    """The quantizers without a zero-point, which TensorRT 8 wants."""
    if node.op_type in _QUANTIZERS and (len(node.inputs) < 3 or node.inputs[2] is None):
        what = f"{name_of(node)} has no zero-point, and TensorRT 8 wants one: give it zeros of the scale's shape"
        yield LintFinding("zero-points are given", name_of(node), what, _GIVEN_ZERO_POINTS)


_RULES: tuple[_Rule, ...] = (
    _operators, _pools, _scales, _zero_points, _types, _activation_scales, _int4, _biases, _one_clip, _float_layers,
    _residuals,
)  # fmt: skip
_RULES_OF_10: tuple[_Rule, ...] = (_moved,)
_RULES_OF_8: tuple[_Rule, ...] = (_int8_constants, _given_zero_points)


def _as_quantized(node: ir.Node, index: int) -> bool:
    """Whether a node dequantizes with a parameter of the QuantizeLinear before it, for which that one is reported."""
    before = source(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
    return before is not None and len(before.inputs) > index and before.inputs[index] is node.inputs[index]


def _quantizes(node: ir.Node) -> bool:
    """Whether a node brings quantized values into the graph: a QuantizeLinear, or a DequantizeLinear of a constant."""
    return node.op_type == "QuantizeLinear" or (node.op_type == "DequantizeLinear" and is_constant(node.inputs[0]))


def _stored_type(node: ir.Node) -> ir.DataType | None:
    """The type of the codes that a QuantizeLinear makes, or of the constant that is dequantized."""
    value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    return None if value is None else value.dtype


def _producer(node: ir.Node, index: int) -> ir.Node | None:
    value = node.inputs[index]
    return None if value is None else value.producer()


def _dequantize(node: ir.Node, index: int) -> ir.Node | None:
    """The DequantizeLinear that an input of a layer comes from; None for other operators than layers."""
    return dequantizer(node.inputs[index]) if node.op_type in _LAYERS else None


def _stored_in_int4(node: ir.Node) -> bool:
    weight = _dequantize(node, 1)
    return weight is not None and weight.inputs[0] is not None and weight.inputs[0].dtype in _INT4


def _blocked(weight: ir.Node) -> int | None:
    """The number of weights along the axis of a DequantizeLinear; None where the model does not say it."""
    codes = weight.inputs[0]
    axis: int = weight.attributes.get_int("axis", 1)
    size = None if codes is None or codes.shape is None else codes.shape[axis]
    return size if isinstance(size, int) else None


def _by_output(node: ir.Node, weight: ir.Node) -> bool:
    """Whether the weights have one scale, or one for each output of the layer."""
    scale = constant(weight.inputs[1])
    if scale is None or scale.size == 1 or weight.attributes.get_int("block_size", 0) > 0:
        return True
    if _producer(node, 1) is not weight:  # behind a Transpose or the like: which axis it was is not followed
        return True
    axis = weight.attributes.get_int("axis", 1)
    transposed: int = node.attributes.get_int("transB", 0)
    if node.op_type == "Conv" or (node.op_type == "Gemm" and transposed):
        return axis == 0
    return axis in (1, -1) or node.op_type == "ConvTranspose"
