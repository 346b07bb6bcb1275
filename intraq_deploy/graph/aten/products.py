"""Products of a tensor and a constant matrix, or one for each group: linear layers and their other spellings."""

import math
import string
from collections import Counter
from typing import Any

from torch import Tensor, fx

from intraq_deploy.graph.aten.calls import arguments, child_name
from intraq_deploy.graph.aten.shapes import permuted
from intraq_deploy.graph.aten.translator import CallError, Translator, translates
from intraq_deploy.graph.graph import Weights
from intraq_deploy.graph.ops import Conv2d, Flatten, Linear, Reshape


@translates("aten.linear.default")
def _linear(t: Translator, call: fx.Node) -> None:
    x, weight, bias = arguments(call, ("input", None), ("weight", None), ("bias", None))
    left = string.ascii_lowercase[: len(t.shape(call))]
    t.same(call, _product(t, call, (t.value(x), f"{left}y"), (weight, "zy"), f"{left}z", t.constant(bias)))


@translates("aten.matmul.default", "aten.mm.default")
def _matmul(t: Translator, call: fx.Node) -> None:
    x, weight = _sorted(t, *call.args)  # type: ignore[arg-type]
    if x is not call.args[0]:
        raise CallError("a constant from the left")
    if t.turned(x) is not None:
        _bmm(t, call)
        return
    dims = len(weight.meta["val"].shape)
    left = string.ascii_lowercase[: len(x.meta["val"].shape) - 1]
    stack = left[-dims + 1 : -1] if dims > 2 else ""
    out = left if dims == 1 else f"{left}z"
    t.same(call, _product(t, call, (t.value(x), f"{left}y"), (weight, f"{stack}y{'z' if dims > 1 else ''}"), out))


@translates("aten.addmm.default")
def _addmm(t: Translator, call: fx.Node) -> None:
    bias, x, weight = call.args
    if set(call.kwargs.values()) - {1}:
        raise CallError(f"factors {call.kwargs}")
    t.same(call, _product(t, call, (t.value(x), "ay"), (weight, "yz"), "az", t.constant(bias)))


@translates("aten.bmm.default")
def _bmm(t: Translator, call: fx.Node) -> None:
    """Translates a product of matrices whose first dimension are groups: images are the rows, and are turned back."""
    x, weight = _sorted(t, *call.args)  # type: ignore[arg-type]
    turned = t.turned(x)
    if x is not call.args[0] or turned is None or turned[1][1] != 0:
        raise CallError("other matrices than one for each group, and images as rows")
    name, dims = turned
    labels = "".join(label for _, label in sorted(zip(dims, "gay", strict=True)))
    t.turn(call, _product(t, call, (name, labels), (weight, "gyz"), "agz"), (1, 0, 2))


@translates("aten.einsum.default")
def _einsum(t: Translator, call: fx.Node) -> None:
    equation, operands = call.args[:2]
    terms, arrow, out = str(equation).replace(" ", "").partition("->")
    labels = terms.split(",")
    if len(labels) != 2:
        raise CallError(f"{len(labels)} tensors (two are supported)")
    x, weight = _sorted(t, *operands)  # type: ignore[misc]
    x_labels, w_labels = labels if x is operands[0] else labels[::-1]  # type: ignore[index]
    spare = "".join(label for label in string.ascii_letters if label not in terms)
    rest = spare[: len(x.meta["val"].shape) - len(x_labels.replace("...", ""))]
    if not arrow:
        once = sorted(label for label, times in Counter(terms.replace(",", "").replace(".", "")).items() if times == 1)
        out = ("..." if "..." in terms else "") + "".join(once)
    x_labels, out = x_labels.replace("...", rest), out.replace("...", rest)
    t.same(call, _product(t, call, (t.value(x), x_labels), (weight, w_labels), out))


def _sorted(t: Translator, a: fx.Node, b: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The tensor that depends on the image, and the constant."""
    if t.is_value(a) and t.is_value(b):
        raise CallError("two tensors that depend on the image, as attention multiplies them")
    return (a, b) if t.is_value(a) else (b, a)


def _product(
    t: Translator, call: fx.Node, left: tuple[str, str], right: tuple[Any, str], out: str, bias: Tensor | None = None
) -> str:
    """Adds the product of a tensor and a constant, and returns the name of the result.

    left, right: the tensor's name and the constant, each with a label per dimension as in einsum; out: the labels of
    the result. The first label of left and out stands for the images. bias: float32 [outputs].
    """
    (name, x), (argument, w) = left, right
    weight = t.constant(argument)
    assert weight is not None
    shared, once = set(x) & set(w), set(x) ^ set(w)
    twice = any(len(set(labels)) < len(labels) for labels in (x, w, out))
    if twice or "." in w or x[0] in w or x[:1] != out[:1] or not once <= set(out) <= once | shared:
        raise CallError(f"the equation {x},{w}->{out}")
    sizes = dict(zip(w, weight.shape, strict=True))
    if any(sizes.get(label, size) != size for label, size in zip(x[1:], t.shape_of(name), strict=True)):
        raise CallError(f"the equation {x},{w}->{out}, with a label of two sizes")
    sizes |= dict(zip(x[1:], t.shape_of(name), strict=True))
    groups = [label for label in x[1:] if label in shared and label in out]
    inner = [label for label in x[1:] if label in shared and label not in out]
    positions = [label for label in x[1:] if label not in shared]
    outer = [label for label in out[1:] if label in w and label not in x]
    own = t.parameter_owner(argument) or child_name(call, "linear")

    def shape(*labels: list[str]) -> tuple[int, ...]:
        return tuple(sizes[label] for part in labels for label in part)

    matrix = weight.permute([w.index(label) for label in (*groups, *outer, *inner)]).reshape(
        -1, math.prod(shape(inner))
    )
    if bias is not None:
        bias = bias.flatten().expand(matrix.shape[0])
    if not groups and not positions:
        flat = t.shape_of(name)
        if len(flat) > 1:
            name = t.add(f"{own}.flatten", Flatten(), [name], (math.prod(flat),))
        y = t.add(own, Linear(), [name], (matrix.shape[0],), Weights(matrix, bias, None))
        return y if len(outer) == 1 else t.add(f"{own}.outputs", Reshape(shape(outer)), [y], shape(outer))
    # The same weights at every position: a 1x1 convolution, of groups where each has its own.
    name = permuted(t, name, tuple(x.index(label) - 1 for label in (*groups, *inner, *positions)), f"{own}.first")
    area = shape(positions) if len(positions) == 2 else (math.prod(shape(positions)), 1)
    name = _reshaped(t, name, (math.prod(shape(groups, inner)), *area), f"{own}.image")
    convolution = Conv2d((1, 1), (0, 0, 0, 0), (1, 1), math.prod(shape(groups)))
    y = t.add(own, convolution, [name], (matrix.shape[0], *area), Weights(matrix[:, :, None, None], bias, None))
    y = _reshaped(t, y, shape(groups, outer, positions), f"{own}.apart")
    made = [*groups, *outer, *positions]
    return permuted(t, y, tuple(made.index(label) for label in out[1:]), f"{own}.last")


def _reshaped(t: Translator, name: str, shape: tuple[int, ...], own: str) -> str:
    return name if t.shape_of(name) == shape else t.add(own, Reshape(shape), [name], shape)
