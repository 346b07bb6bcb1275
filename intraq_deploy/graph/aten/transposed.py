"""Transposed convolutions, as convolutions whose outputs move to their places."""

import torch
from torch import Tensor, fx

from intraq_deploy.graph.aten.calls import CONVOLUTION, arguments, child_name, pair
from intraq_deploy.graph.aten.translator import CallError, Translator, translates
from intraq_deploy.graph.graph import Weights
from intraq_deploy.graph.ops import Conv2d, Reshape, Slice, Transpose


@translates("aten.conv_transpose2d.input")
def _conv_transpose2d(t: Translator, call: fx.Node) -> None:
    """Translates a transposed convolution of stride s as a convolution that makes the s x s pixels of each position,
    which then move to their places. Pixel s q + a of y reads x at q - d where s d + a + padding is within the kernel.
    """
    x, weight, bias, stride, padding, _, groups, dilation = arguments(
        call, *CONVOLUTION[:5], ("output_padding", 0), ("groups", 1), ("dilation", 1)
    )
    kernel = t.constant(weight)
    assert kernel is not None
    if pair(dilation) != (1, 1):
        raise CallError(f"dilation {dilation}")
    strides, pads, groups = pair(stride), pair(padding), int(groups)
    name = t.parameter_owner(weight) or child_name(call, "conv")
    source, (outputs, *size) = t.value(x), t.shape(call)
    taps, sides, counts = [], [], []
    for axis in (0, 1):
        s, p, k = strides[axis], pads[axis], kernel.shape[2 + axis]
        least, most = -((s - 1 + p) // s), (k - 1 - p) // s
        taps.append([[s * d + a + p for d in range(most, least - 1, -1)] for a in range(s)])
        counts.append(-(-size[axis] // s))
        # The first tap of position 0 reads x at -most, the last of the last position at count - 1 - least.
        sides.append((most, counts[-1] - 1 - least - (t.shape_of(source)[1 + axis] - 1)))
    per_group = kernel.reshape(groups, kernel.shape[0] // groups, *kernel.shape[1:])  # [G, C/G, O/G, kh, kw]
    rows = _taken(_taken(per_group, taps[0], 3), taps[1], 5)  # [G, C/G, O/G, a, th, b, tw]
    phases = rows.permute(0, 2, 3, 5, 1, 4, 6).reshape(-1, rows.shape[1], rows.shape[4], rows.shape[6])
    constant = t.constant(bias)
    spread = None if constant is None else constant.repeat_interleave(strides[0] * strides[1])
    (top, bottom), (left, right) = sides
    inner = (outputs * strides[0] * strides[1], *counts)
    source, around = _cropped(t, source, (top, left, bottom, right), name)
    y = t.add(name, Conv2d((1, 1), around, (1, 1), groups), [source], inner, Weights(phases, spread, None))
    t.same(call, _to_places(t, y, (outputs, *strides), (size[0], size[1]), name))


def _taken(weight: Tensor, taps: list[list[int]], dim: int) -> Tensor:
    """The kernel's entries [a, tap] in place of the dimension `dim`; zeros where a tap is outside the kernel."""
    index = torch.tensor(taps)
    inside = (index >= 0) & (index < weight.shape[dim])
    entries = index.clamp(0, weight.shape[dim] - 1).flatten()
    taken: Tensor = weight.index_select(dim, entries).unflatten(dim, index.shape)
    return taken * inside.reshape(*[1] * dim, *index.shape, *[1] * (weight.dim() - dim - 1))


def _cropped(
    t: Translator, name: str, around: tuple[int, int, int, int], own: str
) -> tuple[str, tuple[int, int, int, int]]:
    """The tensor `name` without the rows and columns that a negative padding leaves out, and the padding left over."""
    top, left, bottom, right = around
    for axis, before, after in ((1, top, bottom), (2, left, right)):
        shape = t.shape_of(name)
        start, stop = max(0, -before), shape[axis] - max(0, -after)
        if (start, stop) != (0, shape[axis]):
            cropped = (*shape[:axis], stop - start, *shape[axis + 1 :])
            name = t.add(f"{own}.crop", Slice(axis, start, stop, 1), [name], cropped)
    return name, (max(0, top), max(0, left), max(0, bottom), max(0, right))


def _to_places(t: Translator, name: str, pixels: tuple[int, int, int], size: tuple[int, int], own: str) -> str:
    """Moves the pixels [O a b, H, W] of each position to their places, [O, H a, W b], cut to `size`."""
    outputs, rows, columns = pixels
    _, height, width = t.shape_of(name)
    if (rows, columns) == (1, 1):
        return name
    inner, turned = (outputs, rows, columns, height, width), (outputs, height, rows, width, columns)
    apart = t.add(f"{own}.apart", Reshape(inner), [name], inner)
    moved = t.add(f"{own}.turned", Transpose((0, 3, 1, 4, 2)), [apart], turned)
    image = (outputs, height * rows, width * columns)
    made = t.add(f"{own}.places", Reshape(image), [moved], image)
    return _cropped(t, made, (0, 0, size[0] - image[1], size[1] - image[2]), own)[0]
