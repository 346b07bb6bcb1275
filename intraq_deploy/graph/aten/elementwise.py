"""Activations, sums and products."""

import math
from collections.abc import Sequence

import torch
from torch import fx

from intraq_deploy.graph.aten.calls import arguments, call_name, child_name
from intraq_deploy.graph.aten.layers import scale, times
from intraq_deploy.graph.aten.shapes import broadcast, channels_first, channels_last, pick, through_transpose
from intraq_deploy.graph.aten.translator import OF_PROBABILITIES, CallError, Translator, translates
from intraq_deploy.graph.ops import RELU, Add, Clamp, Concat, MaxPool2d, Multiply, Op, Reshape, Unary


@translates(
    "aten.relu.default", "aten.relu6.default", "aten.hardtanh.default", "aten.clamp.default", "aten.clamp_min.default",
    "aten.clamp_max.default",
)  # fmt: skip
def _clamp(t: Translator, call: fx.Node) -> None:
    target = call_name(call)
    low, high = 0.0, math.inf
    if target == "aten.relu6.default":
        high = 6.0
    elif target != "aten.relu.default":
        first, last = (-1.0, 1.0) if "hardtanh" in target else (None, None)
        _, minimum, maximum = arguments(call, ("self", None), ("min_val", first), ("max_val", last))
        if target == "aten.clamp_max.default":
            minimum, maximum = None, minimum
        low = -math.inf if minimum is None else float(minimum)
        high = math.inf if maximum is None else float(maximum)
    _elementwise(t, call, Clamp(low, high), "relu" if low == 0 else "clamp")


_FUNCTIONS = {
    "aten.sigmoid.default": "Sigmoid",
    "aten.hardsigmoid.default": "HardSigmoid",
    "aten.tanh.default": "Tanh",
    "aten.mish.default": "Mish",
    "aten.selu.default": "Selu",
    "aten.exp.default": "Exp",
    "aten.abs.default": "Abs",
}


@translates(*_FUNCTIONS)
def _function(t: Translator, call: fx.Node) -> None:
    function = _FUNCTIONS[call_name(call)]
    _elementwise(t, call, Unary(function), function.lower())


_GATES = {"aten.hardswish.default": "HardSigmoid", "aten.silu.default": "Sigmoid"}


@translates(*_GATES)
def _gated(t: Translator, call: fx.Node) -> None:
    """Translates x g(x) as the product that it is: runtimes have integer kernels for products, and for these two
    functions of a code, but none for the whole."""
    function = _GATES[call_name(call)]
    name = child_name(call, call_name(call).split(".")[1])

    def make(x: Sequence[str]) -> str:
        gate = t.add(f"{name}.gate", Unary(function), x, t.shape_of(x[0]))
        return t.add(name, Multiply(), [x[0], gate], t.shape_of(x[0]))

    t.same(call, through_transpose(t, [t.value(call.args[0])], make))


@translates("aten.softmax.int", "aten.log_softmax.int")
def _softmax(t: Translator, call: fx.Node) -> None:
    if len(t.shape(call)) == 1 and t.leave_out_softmax(call):
        t.same(call, t.value(call.args[0]))
        return
    name, shape = t.value(call.args[0]), t.shape(call)
    axis = int(call.args[1]) % (len(shape) + 1) - 1  # type: ignore[arg-type]
    if call_name(call) != "aten.softmax.int" or axis < 0 or shape[axis] != 2:
        raise CallError("a place that is not behind the logits (of two values it is a sigmoid, which is supported)")
    t.same(call, _softmax_of_two(t, name, axis, child_name(call, "softmax")))


def _softmax_of_two(t: Translator, name: str, axis: int, own: str) -> str:
    """The name of the softmax of the tensor `name` along an axis of two entries a and b, which are sigmoid(a - b) and
    sigmoid(b - a)."""
    first, second = (pick(t, name, axis, [index], f"{own}.entry{index}") for index in (0, 1))
    parts = []
    for index, (a, b) in enumerate(((first, second), (second, first))):
        minus = times(t, b, torch.tensor(-1.0), f"{own}.minus{index}")
        difference = t.add(f"{own}.difference{index}", Add(), [a, minus], t.shape_of(a))
        parts.append(t.add(f"{own}.gate{index}", Unary("Sigmoid"), [difference], t.shape_of(a)))
    return t.add(own, Concat(axis), parts, t.shape_of(name))


@translates(*OF_PROBABILITIES)
def _of_probabilities(t: Translator, call: fx.Node) -> None:
    source = call.args[0]
    made = isinstance(source, fx.Node) and call_name(source) in ("aten.softmax.int", *OF_PROBABILITIES)
    if not (made and t.leave_out_softmax(call)):
        raise CallError("an input that is not the network's probabilities")
    t.same(call, t.value(source))


@translates("aten.gelu.default")
def _gelu(t: Translator, call: fx.Node) -> None:
    function = "GeluTanh" if call.kwargs.get("approximate", "none") == "tanh" else "Gelu"
    _elementwise(t, call, Unary(function), "gelu")


@translates("aten.leaky_relu.default")
def _leaky_relu(t: Translator, call: fx.Node) -> None:
    _, slope = arguments(call, ("self", None), ("negative_slope", 0.01))
    _elementwise(t, call, Unary("LeakyRelu", float(slope)), "leaky_relu")


@translates("aten.prelu.default", "aten._prelu_kernel.default")
def _prelu(t: Translator, call: fx.Node) -> None:
    """One slope is a leaky ReLU; slopes a of channels are relu(x) - a relu(-x), as no function has a table for each."""
    slopes = t.constant(call.args[1])
    assert slopes is not None
    own = t.parameter_owner(call.args[1]) or child_name(call, "prelu")
    if slopes.numel() == 1:
        _elementwise(t, call, Unary("LeakyRelu", float(slopes)), "prelu")
        return
    name = t.value(call.args[0])
    shape = t.shape_of(name)
    negative = t.add(f"{own}.below", RELU, [times(t, name, torch.tensor(-1.0), f"{own}.minus")], shape)
    below = times(t, negative, -slopes.flatten(), f"{own}.slopes")
    t.emit(call, Add(), [t.add(f"{own}.above", RELU, [name], shape), below], own)


@translates("aten.celu.default")
def _celu(t: Translator, call: fx.Node) -> None:
    _, alpha = arguments(call, ("self", None), ("alpha", 1.0))
    _elementwise(t, call, Unary("Celu", float(alpha)), "celu")


@translates("aten.softplus.default")
def _softplus(t: Translator, call: fx.Node) -> None:
    _, steepness, threshold = arguments(call, ("self", None), ("beta", 1), ("threshold", 20))
    if (steepness, threshold) != (1, 20):
        raise CallError(f"beta {steepness} and threshold {threshold}")
    _elementwise(t, call, Unary("Softplus"), "softplus")


@translates("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.sqrt.default")
def _pow(t: Translator, call: fx.Node) -> None:
    root = call_name(call) == "aten.sqrt.default"
    power = 0.5
    if not root:
        exponent = None if t.is_value(call.args[1]) else t.constant(call.args[1])
        if exponent is None or exponent.numel() != 1:
            raise CallError("an exponent that is no single number")
        power = float(exponent)
    if power <= 0:
        raise CallError(f"the exponent {power:g}")
    if power == 1:
        t.same(call, t.value(call.args[0]))
        return
    own = child_name(call, "pow")

    def make(x: Sequence[str]) -> str:
        (base,), shape = x, t.shape_of(x[0])
        if not (power.is_integer() or t.is_never_negative(base)):
            # Codes below zero, which no image needs, would have no value in the runtimes.
            base = t.add(f"{own}.base", RELU, [base], shape)
        return t.add(own, Unary("Sqrt") if root else Unary("Pow", power), [base], shape)

    t.same(call, through_transpose(t, [t.value(call.args[0])], make))


@translates("aten.neg.default")
def _neg(t: Translator, call: fx.Node) -> None:
    scale(t, call, call.args[0], torch.tensor(-1.0), torch.tensor(0.0))


@translates("aten.elu.default")
def _elu(t: Translator, call: fx.Node) -> None:
    _, alpha, gain, input_gain = arguments(call, ("self", None), ("alpha", 1.0), ("scale", 1.0), ("input_scale", 1.0))
    if (gain, input_gain) != (1, 1):
        raise CallError(f"scales {gain} and {input_gain}")
    _elementwise(t, call, Unary("Elu", float(alpha)), "elu")


def _elementwise(t: Translator, call: fx.Node, op: Op, kind: str) -> None:
    """Adds a node before a transposition rather than behind it."""

    def make(x: Sequence[str]) -> str:
        return t.add(child_name(call, kind), op, x, t.shape_of(x[0]))

    t.same(call, through_transpose(t, [t.value(call.args[0])], make))


@translates("aten.maximum.default", "aten.max.other")
def _maximum(t: Translator, call: fx.Node) -> None:
    """Translates the greater of two tensors as a max pooling over both, which makes no new values."""
    own, shape = child_name(call, "maximum"), t.shape(call)
    constants = [argument for argument in call.args if not t.is_value(argument)]
    if constants:
        (bound,) = map(t.constant, constants)
        (value,) = (argument for argument in call.args if t.is_value(argument))
        if bound is None or bound.numel() != 1 or t.shape_of(t.value(value)) != shape:
            raise CallError("a constant that is no single number")
        t.emit(call, Clamp(float(bound), math.inf), [t.value(value)], own)
        return
    flat, both = (1, 1, math.prod(shape)), (1, 2, math.prod(shape))
    parts = []
    for argument in call.args:
        whole = broadcast(t, t.value(argument), shape, f"{own}.whole")
        parts.append(t.add(f"{own}.part", Reshape(flat), [whole], flat))
    joined = t.add(f"{own}.both", Concat(1), parts, both)
    greatest = t.add(f"{own}.pool", MaxPool2d((2, 1), (2, 1), (0, 0), (1, 1), False), [joined], flat)
    t.emit(call, Reshape(shape), [greatest], own)


@translates("aten.add.Tensor", "aten.sub.Tensor", "aten.rsub.Scalar", "aten.rsub.Tensor")
def _add(t: Translator, call: fx.Node) -> None:
    a, b, alpha = arguments(call, ("self", None), ("other", None), ("alpha", 1))
    if "rsub" in call_name(call):
        a, b = b, a
    factor = float(alpha) if "add" in call_name(call) else -float(alpha)
    if not t.is_value(a):
        shift = t.constant(a)
        assert shift is not None
        scale(t, call, b, torch.tensor(factor), shift)
    elif not t.is_value(b):
        shift = t.constant(b)
        assert shift is not None
        scale(t, call, a, torch.tensor(1.0), factor * shift)
    else:
        first, second, own = t.value(a), t.value(b), child_name(call, "add")
        if factor != 1:
            second = times(t, second, torch.tensor(factor), f"{own}.factor")
        first, second = (broadcast(t, name, t.shape(call), f"{own}.whole") for name in (first, second))
        t.same(call, through_transpose(t, [first, second], lambda xs: t.add(own, Add(), xs, t.shape_of(xs[0]))))


@translates("aten.mul.Tensor", "aten.div.Tensor")
def _mul(t: Translator, call: fx.Node) -> None:
    a, b = call.args
    divides = "div" in call_name(call)
    if divides and not (t.is_value(a) and not t.is_value(b)):
        raise CallError("a divisor that depends on the image")
    if t.is_value(a) and t.is_value(b):
        t.same(call, _product(t, call, t.value(a), t.value(b)))
        return
    value, other = (a, b) if t.is_value(a) else (b, a)
    gain = t.constant(other)
    assert gain is not None
    scale(t, call, value, 1 / gain if divides else gain, torch.tensor(0.0))


def _product(t: Translator, call: fx.Node, first: str, second: str) -> str:
    """The name of the product of two tensors, one of which may have one value for several of the other's."""
    big, small = sorted((first, second), key=lambda name: -math.prod(t.shape_of(t.before_broadcast(name))))
    small = t.before_broadcast(small)
    shape, gate = t.shape_of(big), t.shape_of(small)
    own = child_name(call, "multiply")
    if len(shape) == 3 and gate == (1, 1, shape[2]) != shape:
        return channels_last(t, _product(t, call, channels_first(t, big), channels_first(t, small)))
    if len(shape) > 3 and len(gate) == len(shape) and gate == (*shape[:-2], 1, 1):
        flat, column = (math.prod(shape[:-2]), *shape[-2:]), (math.prod(shape[:-2]), 1, 1)
        factors = [
            t.add(f"{own}.image", Reshape(flat), [big], flat),
            t.add(f"{own}.gate", Reshape(column), [small], column),
        ]
        return t.add(f"{own}.apart", Reshape(shape), [t.add(own, Multiply(), factors, flat)], shape)
    if gate not in (shape, (shape[0], 1, 1)):
        big, small = (broadcast(t, name, t.shape(call), f"{own}.whole") for name in (big, small))
    return through_transpose(t, [big, small], lambda xs: t.add(own, Multiply(), xs, t.shape_of(xs[0])))
