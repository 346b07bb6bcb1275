"""Programs as canonical Q/DQ ONNX: plain, complete, and not yet shaped for any runtime.

Every quantized tensor is QuantizeLinear -> [Clip] -> DequantizeLinear, one DequantizeLinear per reader. It is stored
as INT8 with zero-point 0, the stored value being the code itself (UINT8 where codes exceed a signed byte). The Clip
works on integers and stands for a ReLU-like function and for widths below 8 bits. Weights are INT8 codes behind a
per-channel DequantizeLinear, biases INT32 behind one on the accumulator's grid. Operators that move data stand between
DequantizeLinear and QuantizeLinear of one grid.

Values are named by the program's tensors: `T` (real), `T.codes` (what the program calls the codes of T).
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from intraq_deploy.graph.graph import INPUT_NAME, OUTPUT_NAME, Node
from intraq_deploy.graph.ops import (
    Add,
    AveragePool2d,
    ChannelNorm,
    Clamp,
    Concat,
    Conv2d,
    Flatten,
    GlobalAveragePool,
    Input,
    Linear,
    MaxPool2d,
    Multiply,
    Op,
    Pad,
    Reshape,
    Slice,
    Transpose,
    Unary,
    UnitNorm,
)
from intraq_deploy.program.arithmetic import accumulator_scale
from intraq_deploy.program.bounds import unclipped_bounds
from intraq_deploy.program.program import Grid, IntegerWeights, Program, UnquantizedWeights
from intraq_deploy.targets.onnx.builder import Builder, scalar

INPUT, OUTPUT = INPUT_NAME, OUTPUT_NAME
GRID = "grid"
"""The key in `Value.meta` of the Grid of a value of codes."""
UNCLIPPED = "unclipped"
"""The key in `Value.meta`, of a Clip's output, of the least and the greatest code that could come without the Clip."""
IR_VERSION = 10


def codes_name(tensor: str) -> str:
    """The name of the ONNX value that holds the codes of a program's tensor."""
    return f"{tensor}.codes"


def real_names(program: Program, node: Node) -> tuple[str, ...]:
    """The names of the ONNX values of a float tensor: in front of its activation and, if it has one, behind it."""
    name = node.name
    if isinstance(node.op, Input):
        name = INPUT if program.normalization is None else f"{INPUT}.normalized"
    return (name,) if node.activation is None else (name, f"{node.name}.activation")


def write(program: Program, opset: int, metadata: dict[str, str]) -> ir.Model:
    """The program as an ONNX model with a dynamic batch. metadata: the model's properties."""
    return _Writer(program, opset, metadata).model()


@dataclass(slots=True)
class _Tensor:
    """The ONNX value of a program's tensor that has been written: codes with a grid, or a real value."""

    codes: ir.Value | None
    real: ir.Value | None
    readers: int = 0


class _Writer:
    def __init__(self, program: Program, opset: int, metadata: dict[str, str]) -> None:
        self._program, self._opset, self._metadata = program, opset, metadata
        self._builder = Builder()
        self._tensors: dict[str, _Tensor] = {}

    def model(self) -> ir.Model:
        program = self._program
        classes = program.graph[program.graph.output].shape
        dtype = ir.DataType.FLOAT if program.normalization is None else ir.DataType.UINT8
        image = ir.val(INPUT, dtype, ["N", *program.graph.input.shape])
        for node in program.graph.nodes:
            real = self._image(image) if isinstance(node.op, Input) else self._node(node)
            self._finish(node, real)
        logits = self._read(program.graph.output)
        logits.name, logits.dtype, logits.shape = OUTPUT, ir.DataType.FLOAT, ir.Shape(["N", *classes])
        graph = ir.Graph(
            [image],
            [logits],
            nodes=self._builder.nodes,
            initializers=list(self._builder.initializers.values()),
            opset_imports={"": self._opset},
            name="intraq-deploy",
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="intraq-deploy", metadata_props=self._metadata)

    def _image(self, image: ir.Value) -> ir.Value:
        normalization = self._program.normalization
        if normalization is None:
            return image
        build = self._builder
        shift = np.array(normalization.shift, dtype=np.float32).reshape(-1, 1, 1)
        divisor = np.array(normalization.divisor, dtype=np.float32).reshape(-1, 1, 1)
        pixels = build.op("Cast", [image], f"{INPUT}.float", {"to": ir.DataType.FLOAT})
        shifted = build.op("Sub", [pixels, build.constant(f"{INPUT}.shift", shift)], f"{INPUT}.shifted")
        return build.op("Div", [shifted, build.constant(f"{INPUT}.divisor", divisor)], f"{INPUT}.normalized")

    def _node(self, node: Node) -> ir.Value:
        """The node's real output, before its quantizer."""
        if isinstance(node.op, Conv2d | Linear):
            return self._layer(node, node.op)
        inputs = [self._read(name) for name in node.inputs]
        return self._operator(node, node.op, inputs)

    def _operator(self, node: Node, op: Op, inputs: list[ir.Value]) -> ir.Value:
        build, name = self._builder, node.name
        match op:
            case Add():
                return build.op("Add", inputs, name)
            case Clamp():
                return self._clamp(inputs[0], op, name)
            case GlobalAveragePool():
                return build.op("GlobalAveragePool", inputs, name)
            case Multiply():
                return build.op("Mul", inputs, name)
            case Unary():
                return self._unary(op, inputs[0], name)
            case UnitNorm():
                return build.op("LpNormalization", inputs, name, {"axis": 1, "p": 2})
            case ChannelNorm():
                return self._channel_norm(node, op, inputs[0])
            case AveragePool2d():
                attributes = {
                    "kernel_shape": op.kernel,
                    "strides": op.stride,
                    "pads": op.padding,
                    "count_include_pad": int(op.count_padding),
                }
                return build.op("AveragePool", inputs, name, attributes)
            case MaxPool2d():
                attributes = {
                    "kernel_shape": op.kernel,
                    "strides": op.stride,
                    "pads": (*op.padding, *self._end_padding(node, op)),
                    "dilations": op.dilation,
                }
                return build.op("MaxPool", inputs, name, attributes)
            case Flatten():
                return build.op("Flatten", inputs, name, {"axis": 1})
            case Reshape():
                shape = build.constant(f"{name}.shape", np.array([0, *op.shape], dtype=np.int64))
                return build.op("Reshape", [*inputs, shape], name)
            case Transpose():
                return build.op("Transpose", inputs, name, {"perm": (0, *(d + 1 for d in op.permutation))})
            case Concat():
                return build.op("Concat", inputs, name, {"axis": op.dim + 1})
            case Slice():
                bounds = {"start": op.start, "stop": op.stop, "axis": op.dim + 1, "step": op.step}
                constants = [build.constant(f"{name}.{k}", np.array([v], dtype=np.int64)) for k, v in bounds.items()]
                return build.op("Slice", [*inputs, *constants], name)
            case Pad():
                pads = np.array([0, *op.before, 0, *op.after], dtype=np.int64)
                return build.op("Pad", [*inputs, build.constant(f"{name}.pads", pads)], name)
        raise TypeError(f"{name}: {type(op).__name__} has no ONNX form")

    def _unary(self, op: Unary, x: ir.Value, name: str) -> ir.Value:
        build = self._builder
        match op.function:
            case "HardSigmoid":
                return build.op("HardSigmoid", [x], name, {"alpha": 1 / 6, "beta": 0.5})
            case "Gelu" | "GeluTanh":
                return build.op("Gelu", [x], name, {"approximate": "tanh" if op.function == "GeluTanh" else "none"})
            case "LeakyRelu" | "Elu" | "Celu":
                return build.op(op.function, [x], name, {"alpha": op.alpha})
            case "Pow":
                return build.op("Pow", [x, build.constant(f"{name}.exponent", scalar(op.alpha, np.float32))], name)
        return build.op(op.function, [x], name)

    def _channel_norm(self, node: Node, op: ChannelNorm, x: ir.Value) -> ir.Value:
        """A normalisation over channels between two transpositions: ONNX normalises over last dimensions."""
        build, name = self._builder, node.name
        gain = build.constant(f"{name}.gain", np.ones(node.shape[0], dtype=np.float32))
        last = build.op("Transpose", [x], f"{name}.last", {"perm": (0, 2, 3, 1)})
        y = build.op("LayerNormalization", [last, gain], f"{name}.normalized", {"axis": -1, "epsilon": op.epsilon})
        return build.op("Transpose", [y], name, {"perm": (0, 3, 1, 2)})

    def _end_padding(self, node: Node, op: MaxPool2d) -> tuple[int, ...]:
        """The padding below and to the right. For ceil_mode it is the one that torch's output shape implies: ONNX's
        shape inference does not have torch's rule, that the last window must start inside the image or its padding."""
        if not op.ceil_mode:
            return op.padding
        sizes = zip(
            self._program.graph[node.inputs[0]].shape[1:],
            node.shape[1:],
            op.kernel,
            op.stride,
            op.padding,
            op.dilation,
            strict=True,
        )
        return tuple(
            max(0, (out - 1) * stride + dilation * (kernel - 1) + 1 - size - before)
            for size, out, kernel, stride, before, dilation in sizes
        )

    def _clamp(self, x: ir.Value, clamp: Clamp, name: str) -> ir.Value:
        if (clamp.low, clamp.high) == (0, np.inf):
            return self._builder.op("Relu", [x], name)
        low, high = (
            None if np.isinf(bound) else self._builder.constant(f"{name}.clamp.{key}", scalar(bound, np.float32))
            for key, bound in (("low", clamp.low), ("high", clamp.high))
        )
        return self._builder.op("Clip", [x, low, high], name)

    def _layer(self, node: Node, op: Conv2d | Linear) -> ir.Value:
        inputs = [self._read(node.inputs[0]), self._weight(node), self._bias(node)]
        if isinstance(op, Linear):
            return self._builder.op("Gemm", inputs, node.name, {"transB": 1})
        attributes = {"strides": op.stride, "pads": op.padding, "dilations": op.dilation, "group": op.groups}
        return self._builder.op("Conv", inputs, node.name, attributes)

    def _weight(self, node: Node) -> ir.Value:
        build, weights = self._builder, self._program.layers[node.name]
        name = f"{node.name}.weight"
        if isinstance(weights, UnquantizedWeights):
            return build.constant(name, weights.values.numpy())
        codes = build.constant(f"{name}.codes", weights.codes.numpy())
        scale = build.constant(f"{name}.scale", weights.scale.numpy())
        zero_point = build.constant(f"{name}.zero_point", np.zeros(len(weights.scale), dtype=np.int8))
        return build.op("DequantizeLinear", [codes, scale, zero_point], name, {"axis": 0})

    def _bias(self, node: Node) -> ir.Value:
        build, weights = self._builder, self._program.layers[node.name]
        name = f"{node.name}.bias"
        if not isinstance(weights, IntegerWeights):
            return build.constant(name, weights.bias.numpy())
        grid = self._program.grids[node.inputs[0]]
        codes = build.constant(f"{name}.codes", weights.bias_codes.numpy())
        scale = build.constant(f"{name}.scale", accumulator_scale(grid.scale, weights.scale).numpy())
        zero_point = build.constant(f"{name}.zero_point", np.zeros(len(weights.scale), dtype=np.int32))
        return build.op("DequantizeLinear", [codes, scale, zero_point], name, {"axis": 0})

    def _finish(self, node: Node, real: ir.Value) -> None:
        """Quantizes the tensor if it has a grid; else its activation stays a float operator."""
        grid = self._program.grids.get(node.name)
        if grid is not None:
            codes = self._quantize(node.name, real, grid, unclipped_bounds(self._program, node))
            self._tensors[node.name] = _Tensor(codes, None)
            return
        if node.activation is not None:
            real = self._clamp(real, node.activation, real_names(self._program, node)[-1])
        self._tensors[node.name] = _Tensor(None, real)

    def _quantize(self, name: str, real: ir.Value, grid: Grid, unclipped: tuple[float, float]) -> ir.Value:
        """The codes of `real`. unclipped: their range without bounds; within the bounds no Clip is needed."""
        build = self._builder
        dtype, zero_point = _container(grid)
        parameters = self._parameters(name, grid)
        bounds = (grid.code_min + zero_point, grid.code_max + zero_point)
        info = np.iinfo(dtype)
        idle = grid.code_min <= unclipped[0] and unclipped[1] <= grid.code_max
        clip = not idle and bounds != (info.min, info.max)
        stored = build.op("QuantizeLinear", [real, *parameters], f"{name}.quantized" if clip else codes_name(name))
        if clip:
            low, high = (
                build.constant(f"{name}.{k}", scalar(v, dtype)) for k, v in zip(("low", "high"), bounds, strict=True)
            )
            stored = build.op("Clip", [stored, low, high], codes_name(name))
            stored.meta[UNCLIPPED] = unclipped
        stored.meta[GRID] = grid
        return stored

    def _parameters(self, name: str, grid: Grid) -> tuple[ir.Value, ir.Value]:
        dtype, zero_point = _container(grid)
        return (
            self._builder.constant(f"{name}.scale", scalar(grid.scale, np.float32)),
            self._builder.constant(f"{name}.zero_point", scalar(zero_point, dtype)),
        )

    def _read(self, name: str) -> ir.Value:
        """The real value of a tensor; every reader gets a DequantizeLinear of its own."""
        tensor = self._tensors[name]
        if tensor.codes is None:
            assert tensor.real is not None
            return tensor.real
        tensor.readers += 1
        parameters = self._parameters(name, self._program.grids[name])
        real = self._builder.op("DequantizeLinear", [tensor.codes, *parameters], f"{name}.dequantized.{tensor.readers}")
        real.dtype, real.shape = ir.DataType.FLOAT, ir.Shape(["N", *self._program.graph[name].shape])
        return real


def _container(grid: Grid) -> tuple[type[np.int8] | type[np.uint8], int]:
    """The type in which a grid's codes are stored, and the zero-point."""
    if grid.lowest >= -128 and grid.code_max <= 127:
        return np.int8, 0
    return np.uint8, grid.unsigned_zero_point
