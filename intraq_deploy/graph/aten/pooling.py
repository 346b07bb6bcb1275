"""Maxima and means over windows and over everything."""

import math
from functools import partial
from typing import Any

import torch
from torch import fx

from intraq_deploy.graph.aten.calls import arguments, call_name, child_name, pair
from intraq_deploy.graph.aten.layers import times
from intraq_deploy.graph.aten.shapes import channels_first, channels_last, pick, selected
from intraq_deploy.graph.aten.translator import CallError, Translator, translates
from intraq_deploy.graph.ops import Add, AveragePool2d, Flatten, GlobalAveragePool, MaxPool2d, Reshape

_MOST_TERMS = 8
_MAX_POOL: tuple[tuple[str, Any], ...] = (
    ("self", None), ("kernel_size", None), ("stride", []), ("padding", 0), ("dilation", 1), ("ceil_mode", False),
)  # fmt: skip


@translates("aten.max_pool2d.default", "aten.max_pool2d_with_indices.default")
def _max_pool2d(t: Translator, call: fx.Node) -> None:
    x, kernel, stride, padding, dilation, ceil_mode = arguments(call, *_MAX_POOL)
    op = MaxPool2d(pair(kernel), pair(stride or kernel), pair(padding), pair(dilation), bool(ceil_mode))
    name, own = t.image(x), child_name(call, "max_pool")
    if "indices" not in call_name(call):
        t.emit(call, op, [name], own)
        return
    shape = tuple(int(size) for size in call.meta["val"][0].shape[1:])
    # Its second output, where the maxima are, is none that a network's integers could be made of.
    t.several(call, [partial(t.add, own, op, [name], shape)])


@translates("aten.max_pool1d.default")
def _max_pool1d(t: Translator, call: fx.Node) -> None:
    """Translates a max pooling over [C, L] as one over [C, 1, L]."""
    x, kernel, stride, padding, dilation, ceil_mode = arguments(call, *_MAX_POOL)
    source, own, (channels, positions) = t.value(x), child_name(call, "max_pool"), t.shape(call)
    length, (_, kernel) = t.shape_of(source)[1], pair(kernel)
    image = t.add(f"{own}.image", Reshape((channels, 1, length)), [source], (channels, 1, length))
    step = pair(stride)[1] if stride else kernel
    op = MaxPool2d((1, kernel), (1, step), (0, pair(padding)[1]), (1, pair(dilation)[1]), bool(ceil_mode))
    y = t.add(own, op, [image], (channels, 1, positions))
    t.same(call, t.add(f"{own}.positions", Reshape((channels, positions)), [y], (channels, positions)))


@translates("aten.avg_pool2d.default")
def _avg_pool2d(t: Translator, call: fx.Node) -> None:
    x, kernel, stride, padding, _, count_padding, divisor = arguments(
        call,
        ("self", None),
        ("kernel_size", None),
        ("stride", []),
        ("padding", 0),
        ("ceil_mode", False),
        ("count_include_pad", True),
        ("divisor_override", None),
    )
    if divisor is not None:
        raise CallError("a divisor of its own")
    name = t.image(x)
    kernel, stride, before = pair(kernel), pair(stride or kernel), pair(padding)
    after, overhang = [], False
    for size, out, window, step, pad in zip(
        t.shape_of(name)[1:], t.shape(call)[1:], kernel, stride, before, strict=True
    ):
        needed = (out - 1) * step + window - size - pad
        after.append(max(needed, 0) if needed > pad else pad)
        overhang |= needed > pad
    if overhang and count_padding and any(before):
        raise CallError("ceil_mode with padding that counts")
    # Windows that ceil_mode lets hang over the edge average what is inside.
    count = bool(count_padding) and not overhang
    if not any((*before, *after)):
        count = True
    average(t, call, name, AveragePool2d(kernel, stride, (*before, after[0], after[1]), count))


@translates("aten.adaptive_avg_pool2d.default")
def _adaptive_avg_pool2d(t: Translator, call: fx.Node) -> None:
    name, kernel = _regular(t, call, t.shape(call))
    average(t, call, name, AveragePool2d(kernel, kernel))


@translates("aten.adaptive_max_pool2d.default")
def _adaptive_max_pool2d(t: Translator, call: fx.Node) -> None:
    shape = tuple(int(size) for size in call.meta["val"][0].shape[1:])
    name, kernel = _regular(t, call, shape)
    op = MaxPool2d(kernel, kernel, (0, 0), (1, 1), False)
    t.several(call, [partial(t.add, child_name(call, "max_pool"), op, [name], shape)])


def _regular(t: Translator, call: fx.Node, output: tuple[int, ...]) -> tuple[str, tuple[int, int]]:
    """The tensor and the windows of an adaptive pooling to [C, H', W'].

    Rows and columns are repeated so that its windows become alike and lie side by side: neither a mean nor a maximum
    changes where each element of a window counts equally often. Raises CallError where that takes too many.
    """
    name, own = t.image(call.args[0]), child_name(call, "pool")
    shape, kernel = t.shape_of(name)[1:], list[int]()
    for axis, out in ((1, output[1]), (2, output[2])):
        size = t.shape_of(name)[axis]
        windows = [range(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
        kernel.append(math.lcm(*map(len, windows)))
        indices = [i for window in windows for i in window for _ in range(kernel[-1] // len(window))]
        try:
            name = pick(t, name, axis, indices, f"{own}.{'rows' if axis == 1 else 'columns'}")
        except CallError as error:
            raise CallError(
                f"output {output[1]}x{output[2]} of an input {'x'.join(map(str, shape))}, whose windows are too unlike "
                "(another --input-size may be supported)"
            ) from error
    return name, (kernel[0], kernel[1])


def average(t: Translator, call: fx.Node, name: str, op: AveragePool2d) -> None:
    """Adds a pooling of the tensor `name` that `call` stands for: none over single pixels, a global one over all."""
    if op == AveragePool2d((1, 1), (1, 1)):
        t.same(call, name)
    elif op.kernel == t.shape_of(name)[1:] and not any(op.padding):
        t.emit(call, GlobalAveragePool(), [name], child_name(call, "avg_pool"))
    else:
        t.emit(call, op, [name], child_name(call, "avg_pool"))


@translates("aten.mean.dim")
def _mean(t: Translator, call: fx.Node) -> None:
    x, dims, keepdim = arguments(call, ("self", None), ("dim", None), ("keepdim", False))
    name = t.value(x)
    channels, *spatial = t.shape_of(name)
    over = sorted(d % (len(spatial) + 2) - 2 for d in dims)
    if len(spatial) == 2 and over == [-1]:
        pooled = _over_channels(t, name, AveragePool2d((channels, 1), (channels, 1)), child_name(call, "mean"))
        t.same(call, pooled if keepdim else selected(t, pooled, 0, 0, f"{pooled}.first"))
        return
    if len(spatial) == 2 and over == [-1, 0]:  # height and width of [H, W, C]
        first = channels_first(t, name)
        pooled = t.add(child_name(call, "avg_pool"), GlobalAveragePool(), [first], (spatial[1], 1, 1))
        flat = partial(t.add, f"{pooled}.flatten", Flatten(), [pooled], (spatial[1],))
        t.same(call, channels_last(t, pooled) if keepdim else flat())
        return
    if len(spatial) not in (1, 2) or not over or over[0] < 0:
        raise CallError(f"dimensions {list(dims)} (the mean over positions is supported)")
    own = child_name(call, "avg_pool")
    if len(over) == len(spatial):
        source = _positions(t, name)
        pooled = source
        if t.shape_of(source) != (channels, 1, 1):
            pooled = t.add(own, GlobalAveragePool(), [source], (channels, 1, 1))
        t.same(call, pooled if keepdim else t.add(f"{pooled}.flatten", Flatten(), [pooled], (channels,)))
        return
    if spatial[1 - over[0]] == 1:  # the other dimension is a mean already
        pooled = t.add(own, GlobalAveragePool(), [_positions(t, name)], (channels, 1, 1))
    else:
        kernel = (spatial[0], 1) if over == [0] else (1, spatial[1])
        shape = (channels, 1, spatial[1]) if over == [0] else (channels, spatial[0], 1)
        pooled = t.add(own, AveragePool2d(kernel, kernel), [name], shape)
    after = t.shape(call)
    t.same(call, pooled if keepdim else t.add(f"{pooled}.reshape", Reshape(after), [pooled], after))


def _positions(t: Translator, name: str) -> str:
    """The tensor [C, H, W] whose positions are those of the tensor `name`, [C, H W] or [C, H], or means over rows or
    columns of them: the mean over all is the same."""
    node = t.raw(name).node
    if isinstance(node.op, Reshape) and len(t.shape_of(node.inputs[0])) == 3:
        inner = t.shape_of(node.inputs[0])
        if inner[0] == node.shape[0] and inner[1] * inner[2] == math.prod(node.shape[1:]):
            return _positions(t, node.inputs[0])
    if isinstance(node.op, AveragePool2d) and 1 in node.op.kernel and not any(node.op.padding):
        inner = t.shape_of(node.inputs[0])
        if node.op.kernel in ((inner[1], 1), (1, inner[2])):
            return node.inputs[0]
    if len(node.shape) != 3:
        raise CallError(f"a tensor {node.shape} (the mean over positions of an image is supported)")
    return name


@translates("aten.amax.default")
def _amax(t: Translator, call: fx.Node) -> None:
    x, dims, keepdim = arguments(call, ("self", None), ("dim", []), ("keepdim", False))
    t.same(call, _maximum(t, t.value(x), list(dims), keepdim, child_name(call, "max")))


@translates("aten.max.dim")
def _max(t: Translator, call: fx.Node) -> None:
    x, dim, keepdim = arguments(call, ("self", None), ("dim", None), ("keepdim", False))
    # Its second output, where the maxima are, is none that a network's integers could be made of.
    found = _maximum(t, t.value(x), [dim], keepdim, child_name(call, "max"))
    t.several(call, [lambda: found])


def _maximum(t: Translator, name: str, dims: list[int], keepdim: bool, own: str) -> str:
    """The name of the maximum of the tensor `name`, [C, H, W] or [C, L], over its channels or its positions."""
    whole, after = t.shape_of(name), tuple[int, ...]()
    over = [dim % (len(whole) + 1) for dim in dims]
    if len(whole) == 2 and over == [2]:  # a line is an image of one row
        image = (whole[0], 1, whole[1])
        name, over = t.add(f"{own}.line", Reshape(image), [name], image), [2, 3]
        after = (whole[0], 1) if keepdim else whole[:1]
    elif len(whole) == 3 and (over == [1] or set(over) in ({2}, {3}, {2, 3})):
        after = tuple(1 if axis in over else size for axis, size in enumerate(whole, 1) if keepdim or axis not in over)
    else:
        raise CallError(f"dimensions {dims} of {len(whole) + 1} (channels, rows and columns are supported)")
    shape = t.shape_of(name)
    if over == [1]:
        found = _over_channels(t, name, MaxPool2d((shape[0], 1), (shape[0], 1), (0, 0), (1, 1), False), own)
    else:
        kernel = (shape[1] if 2 in over else 1, shape[2] if 3 in over else 1)
        pooled = (shape[0], shape[1] // kernel[0], shape[2] // kernel[1])
        found = t.add(own, MaxPool2d(kernel, kernel, (0, 0), (1, 1), False), [name], pooled)
    return found if t.shape_of(found) == after else t.add(f"{found}.reshape", Reshape(after), [found], after)


def _over_channels(t: Translator, name: str, op: AveragePool2d | MaxPool2d, own: str) -> str:
    """The name of a pooling of the tensor `name`, [C, H, W], over all channels of a position: [1, H, W]."""
    channels, height, width = t.shape_of(name)
    rows, row, image = (1, channels, height * width), (1, 1, height * width), (1, height, width)
    flat = t.add(f"{own}.channels", Reshape(rows), [name], rows)
    return t.add(f"{own}.image", Reshape(image), [t.add(own, op, [flat], row)], image)


@translates("aten.sum.dim_IntList")
def _sum(t: Translator, call: fx.Node) -> None:
    x, dims, keepdim = arguments(call, ("self", None), ("dim", None), ("keepdim", False))
    name, own = t.value(x), child_name(call, "sum")
    shape = t.shape_of(name)
    over = [dim % (len(shape) + 1) - 1 for dim in dims or []]
    if len(shape) == 3 and sorted(over) == [1, 2]:
        mean = t.add(f"{own}.mean", GlobalAveragePool(), [name], (shape[0], 1, 1))
        total = times(t, mean, torch.tensor(float(shape[1] * shape[2])), own)
        t.same(call, total if keepdim else t.add(f"{own}.flatten", Flatten(), [total], shape[:1]))
        return
    if len(over) != 1 or over[0] < 0 or shape[over[0]] > _MOST_TERMS:
        raise CallError(
            f"dimensions {dims} of {shape} (height and width are supported, or one of at most {_MOST_TERMS} entries)"
        )
    (axis,) = over
    first, *others = [selected(t, name, axis, index, f"{own}.term{index}") for index in range(shape[axis])]
    for other in others:
        first = t.add(own, Add(), [first, other], t.shape_of(first))
    after = t.shape(call)
    t.same(call, first if not keepdim else t.add(f"{first}.reshape", Reshape(after), [first], after))
