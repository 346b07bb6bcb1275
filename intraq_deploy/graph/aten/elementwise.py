"""Activations, sums and products."""

import math

import torch
from torch import fx

from intraq_deploy.graph.aten.layers import scale, times
from intraq_deploy.graph.aten.shapes import through_transpose
from intraq_deploy.graph.aten.translator import (
    OF_PROBABILITIES,
    CallError,
    Translator,
    arguments,
    call_name,
    child_name,
    translates,
)
from intraq_deploy.graph.ops import Add, Clamp, Multiply, Op, Unary


@translates(
    "aten.relu.default", "aten.relu6.default", "aten.hardtanh.default", "aten.clamp.default", "aten.clamp_min.default"
)
def _clamp(t: Translator, call: fx.Node) -> None:
    target = call_name(call)
    low, high = 0.0, math.inf
    if target == "aten.relu6.default":
        high = 6.0
    elif target != "aten.relu.default":
        first, last = (-1.0, 1.0) if "hardtanh" in target else (None, None)
        _, minimum, maximum = arguments(call, ("self", None), ("min_val", first), ("max_val", last))
        low = -math.inf if minimum is None else float(minimum)
        high = math.inf if maximum is None else float(maximum)
    _elementwise(t, call, Clamp(low, high), "relu" if low == 0 else "clamp")


_FUNCTIONS = {
    "aten.sigmoid.default": "Sigmoid",
    "aten.hardsigmoid.default": "HardSigmoid",
    "aten.tanh.default": "Tanh",
    "aten.mish.default": "Mish",
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

    def make(x: str) -> str:
        gate = t.add(f"{name}.gate", Unary(function), [x], t.shape_of(x))
        return t.add(name, Multiply(), [x, gate], t.shape_of(x))

    t.same(call, through_transpose(t, t.value(call.args[0]), make))


@translates("aten.softmax.int", "aten.log_softmax.int")
def _softmax(t: Translator, call: fx.Node) -> None:
    if len(t.shape(call)) != 1 or not t.leave_out_softmax(call):
        raise CallError("somewhere else than behind the logits")
    t.same(call, t.value(call.args[0]))


@translates(*OF_PROBABILITIES)
def _of_probabilities(t: Translator, call: fx.Node) -> None:
    source = call.args[0]
    if not (isinstance(source, fx.Node) and call_name(source) in ("aten.softmax.int", *OF_PROBABILITIES)):
        raise CallError("of something else than the network's probabilities")
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
    shape, relu = t.shape_of(name), Clamp(0.0, math.inf)
    negative = t.add(f"{own}.below", relu, [times(t, name, torch.tensor(-1.0), f"{own}.minus")], shape)
    below = times(t, negative, -slopes.flatten(), f"{own}.slopes")
    t.emit(call, Add(), [t.add(f"{own}.above", relu, [name], shape), below], own)


@translates("aten.elu.default")
def _elu(t: Translator, call: fx.Node) -> None:
    _, alpha, gain, input_gain = arguments(call, ("self", None), ("alpha", 1.0), ("scale", 1.0), ("input_scale", 1.0))
    if (gain, input_gain) != (1, 1):
        raise CallError(f"scales {gain} and {input_gain}")
    _elementwise(t, call, Unary("Elu", float(alpha)), "elu")


def _elementwise(t: Translator, call: fx.Node, op: Op, kind: str) -> None:
    """Adds a node before a transposition rather than behind it: pairs of transpositions then meet, and go."""
    t.same(
        call,
        through_transpose(t, t.value(call.args[0]), lambda x: t.add(child_name(call, kind), op, [x], t.shape_of(x))),
    )


@translates("aten.add.Tensor", "aten.sub.Tensor", "aten.rsub.Scalar")
def _add(t: Translator, call: fx.Node) -> None:
    a, b = call.args[1::-1] if "rsub" in call_name(call) else call.args
    sign = 1.0 if "add" in call_name(call) else -1.0
    factor = sign * float(call.kwargs.get("alpha", 1))  # type: ignore[arg-type]
    if factor != sign and not (t.is_value(a) and t.is_value(b)):
        raise CallError(f"alpha {call.kwargs['alpha']} of a constant")
    if not t.is_value(a):
        shift = t.constant(a)
        assert shift is not None
        scale(t, call, b, torch.tensor(sign), shift)
    elif not t.is_value(b):
        shift = t.constant(b)
        assert shift is not None
        scale(t, call, a, torch.tensor(1.0), sign * shift)
    else:
        first, second = t.value(a), t.value(b)
        if t.shape_of(first) != t.shape_of(second):
            raise CallError(f"shapes {t.shape_of(first)} and {t.shape_of(second)}")
        own = child_name(call, "add")
        if factor != 1:
            second = times(t, second, torch.tensor(factor), f"{own}.factor")
        t.emit(call, Add(), [first, second], own)


@translates("aten.mul.Tensor", "aten.div.Tensor")
def _mul(t: Translator, call: fx.Node) -> None:
    a, b = call.args
    divides = "div" in call_name(call)
    if divides and not (t.is_value(a) and not t.is_value(b)):
        raise CallError("a divisor that depends on the image")
    if t.is_value(a) and t.is_value(b):
        big, small = sorted((t.value(a), t.value(b)), key=lambda name: -math.prod(t.shape_of(name)))
        if t.shape_of(small) not in (t.shape_of(big), (t.shape_of(big)[0], 1, 1)):
            raise CallError(f"shapes {t.shape_of(big)} and {t.shape_of(small)}")
        t.emit(call, Multiply(), [big, small], child_name(call, "multiply"))
        return
    value, other = (a, b) if t.is_value(a) else (b, a)
    gain = t.constant(other)
    assert gain is not None
    scale(t, call, value, 1 / gain if divides else gain, torch.tensor(0.0))
