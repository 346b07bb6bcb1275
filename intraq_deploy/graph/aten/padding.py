"""Padding of height and width, with zeros or with what is there."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from intraq_deploy.graph.aten.calls import arguments, call_name, child_name, pair
from intraq_deploy.graph.aten.shapes import pick
from intraq_deploy.graph.aten.translator import CallError, Translator, translates
from intraq_deploy.graph.ops import Pad

_LEAST = -1e30
"""A number below which padding counts as -inf."""


@translates("aten.pad.default", "aten.constant_pad_nd.default")
def _pad(t: Translator, call: fx.Node) -> None:
    x, values, mode, value = arguments(call, ("self", None), ("pad", None), ("mode", "constant"), ("value", None))
    if "constant_pad" in call_name(call):
        mode, value = "constant", arguments(call, ("self", None), ("pad", None), ("value", 0))[2]
    if mode != "constant":
        _continued(t, call, mode, values)
        return
    name = t.value(x)
    values = [int(each) for each in values]
    if value not in (0, 0.0, None):
        if value > _LEAST or not _only_maximum(call, values):
            raise CallError(f"{value} (zeros are supported, and -inf before a max pooling)")
        if not t.is_never_negative(name):
            # A window that reaches over the edge holds the edge's own value, and its maximum stays.
            _continued(t, call, "replicate", values)
            return
    if not any(values):
        t.same(call, name)
        return
    values += [0] * (6 - len(values))
    if len(values) > 6 or len(t.shape_of(name)) != 3:
        raise CallError(f"padding {values}")
    for axis, before, after in zip((2, 1, 0), values[::2], values[1::2], strict=True):
        if min(before, after) < 0:  # less than no padding takes rows away
            kept = range(max(0, -before), t.shape_of(name)[axis] - max(0, -after))
            name = pick(t, name, axis, kept, child_name(call, "crop"))
    w0, w1, h0, h1, c0, c1 = (max(0, each) for each in values)
    if not any((w0, w1, h0, h1, c0, c1)):
        t.same(call, name)
        return
    t.emit(call, Pad((c0, h0, w0), (c1, h1, w1)), [name], child_name(call, "pad"))


def _only_maximum(call: fx.Node, values: Sequence[int]) -> bool:
    """Whether only max poolings read a padding, whose windows reach into the image and have no gaps."""

    def reaches(pool: fx.Node) -> bool:
        if call_name(pool) != "aten.max_pool2d.default":
            return False
        _, kernel, _, padding, dilation = arguments(
            pool, ("self", None), ("kernel_size", None), ("stride", []), ("padding", 0), ("dilation", 1)
        )
        height, width = pair(kernel)
        fits = len(values) <= 4 and max(values[:2]) < width and max(values[2:], default=0) < height
        return fits and pair(padding) == (0, 0) and pair(dilation) == (1, 1)

    return all(map(reaches, call.users))


@translates(
    "aten.reflection_pad2d.default", "aten.replication_pad2d.default", "aten.reflection_pad1d.default",
    "aten.replication_pad1d.default",
)  # fmt: skip
def _pad_of_a_kind(t: Translator, call: fx.Node) -> None:
    _continued(t, call, "reflect" if "reflection" in call_name(call) else "replicate", call.args[1])


def _continued(t: Translator, call: fx.Node, mode: str, values: Any) -> None:
    """Continues rows and columns with their own: slices that are joined."""
    name, own = t.value(call.args[0]), child_name(call, "pad")
    if min(values) < 0:
        raise CallError(f"padding {list(values)} in the mode {mode}")
    rank = len(t.shape_of(name))
    for axis, (before, after) in zip((rank - 1, rank - 2), zip(values[::2], values[1::2], strict=True), strict=False):
        size = t.shape_of(name)[axis]
        match mode:
            case "reflect":
                indices = [*range(before, 0, -1), *range(size), *range(size - 2, size - 2 - after, -1)]
            case "replicate":
                indices = [0] * before + [*range(size)] + [size - 1] * after
            case "circular":
                indices = [*range(size - before, size), *range(size), *range(after)]
            case _:
                raise CallError(f"the mode {mode}")
        name = pick(t, name, axis, indices, f"{own}.{'width' if axis == rank - 1 else 'height'}")
    t.same(call, name)
