"""Calls that only move data, and those that do nothing."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, fx

from intraq_deploy.graph.aten.calls import arguments, child_name
from intraq_deploy.graph.aten.translator import TRACE_BATCH, CallError, Translator, translates
from intraq_deploy.graph.ops import Concat, Flatten, Reshape, Slice, Transpose

_MOST_RUNS = 64
_MOST_COPIES = 8
_LAST, _FIRST = (1, 2, 0), (2, 0, 1)
"""Permutations from [C, H, W] to [H, W, C], and back."""


def permuted(t: Translator, name: str, permutation: tuple[int, ...], own: str) -> str:
    """Adds a transposition of the tensor `name`, and returns its name; two transpositions become one, or none."""
    node = t.raw(name).node
    if isinstance(node.op, Transpose):
        permutation = tuple(node.op.permutation[i] for i in permutation)
        (name,) = node.inputs
    if permutation == tuple(range(len(permutation))):
        return name
    shape = t.shape_of(name)
    return t.add(own, Transpose(permutation), [name], tuple(shape[i] for i in permutation))


def channels_first(t: Translator, name: str) -> str:
    """Transposes the tensor `name` from [H, W, C] to [C, H, W], and returns the name of the result."""
    return permuted(t, name, _FIRST, f"{name}.channels_first")


def channels_last(t: Translator, name: str) -> str:
    """Transposes the tensor `name` from [C, H, W] to [H, W, C], and returns the name of the result."""
    return permuted(t, name, _LAST, f"{name}.channels_last")


def through_transpose(t: Translator, names: Sequence[str], make: Callable[[Sequence[str]], str]) -> str:
    """Calls `make` on the tensors before their transpositions, where these are alike: the order of dimensions does not
    matter to it. Pairs of transpositions then meet, and go."""
    nodes = [t.raw(name).node for name in names]
    permutations = {node.op.permutation for node in nodes if isinstance(node.op, Transpose)}
    if len(permutations) != 1 or not all(isinstance(node.op, Transpose) for node in nodes):
        return make(names)
    made = make([node.inputs[0] for node in nodes])
    return permuted(t, made, permutations.pop(), f"{made}.transpose")


@translates("aten.permute.default")
def _permute(t: Translator, call: fx.Node) -> None:
    dims = [int(d) % (len(t.shape(call)) + 1) for d in call.args[1]]  # type: ignore[union-attr, arg-type]
    _transposed(t, call, dims)


@translates("aten.transpose.int")
def _transpose(t: Translator, call: fx.Node) -> None:
    rank = len(t.shape(call)) + 1
    dims = list(range(rank))
    first, second = (int(d) % rank for d in call.args[1:3])  # type: ignore[arg-type]
    dims[first], dims[second] = dims[second], dims[first]
    _transposed(t, call, dims)


def _transposed(t: Translator, call: fx.Node, dims: list[int]) -> None:
    source = call.args[0]
    name, before = t.turned(source) or (t.value(source), tuple(range(len(dims))))
    dims = [before[d] for d in dims]
    if dims[0] != 0:
        t.turn(call, name, tuple(dims))
    else:
        t.same(call, permuted(t, name, tuple(d - 1 for d in dims[1:]), child_name(call, "transpose")))


@translates(
    "aten.view.default", "aten.reshape.default", "aten.flatten.using_ints", "aten.squeeze.dims", "aten.squeeze.dim",
    "aten.squeeze.default", "aten.unsqueeze.default", "aten._unsafe_view.default",
)  # fmt: skip
def _reshape(t: Translator, call: fx.Node) -> None:
    name = t.value(call.args[0])
    before, after = t.shape_of(name), t.shape(call)
    if int(call.meta["val"].shape[0]) != TRACE_BATCH:
        raise CallError(f"a shape that mixes images ({tuple(call.meta['val'].shape)})")
    if before == after:
        t.same(call, name)
    elif len(after) == 1 and before:
        t.emit(call, Flatten(), [name], child_name(call, "flatten"))
    else:
        t.emit(call, Reshape(after), [name], child_name(call, "reshape"))


@translates("aten.expand.default", "aten.expand_as.default")
def _expand(t: Translator, call: fx.Node) -> None:
    if int(call.meta["val"].shape[0]) != TRACE_BATCH:
        raise CallError("more images than there are")
    name, shape, own = t.value(call.args[0]), t.shape(call), child_name(call, "expand")
    if len(shape) != len(t.shape_of(name)):
        raise CallError(f"{len(shape) - len(t.shape_of(name))} further dimensions")
    t.same(call, broadcast(t, name, shape, own))


def broadcast(t: Translator, name: str, shape: tuple[int, ...], own: str) -> str:
    """Repeats the tensor `name` along its dimensions of size 1, and returns the name of the result, of shape `shape`.

    A product reads the tensor before it. Raises CallError for other shapes.
    """
    small, before = name, t.shape_of(name)
    if len(before) != len(shape) or not all(b in (1, s) for b, s in zip(before, shape, strict=True)):
        raise CallError(f"a tensor {before} where {shape} is wanted")
    for axis, (size, wanted) in enumerate(zip(before, shape, strict=True)):
        if size != wanted:
            name = _copies(t, name, axis, wanted, f"{own}.{axis}")
    if name != small:
        t.note_broadcast(name, small)
    return name


def _copies(t: Translator, name: str, axis: int, count: int, own: str) -> str:
    """Joins copies of the tensor `name` along an axis, many of them by doubling, and returns the name of the result."""
    shape, parts = t.shape_of(name), [name] * count
    if count > _MOST_COPIES:
        half = _copies(t, name, axis, count // 2, f"{own}.half")
        parts = [half, half, *parts[: count % 2]]
    return t.add(own, Concat(axis), parts, (*shape[:axis], count * shape[axis], *shape[axis + 1 :]))


@translates("aten.repeat.default")
def _repeat(t: Translator, call: fx.Node) -> None:
    name, times = t.value(call.args[0]), [int(each) for each in call.args[1]]  # type: ignore[union-attr, arg-type]
    if len(times) != len(t.shape_of(name)) + 1 or times[0] != 1:
        raise CallError(f"the numbers of copies {times}")
    for axis, count in enumerate(times[1:]):
        if count != 1:
            name = _copies(t, name, axis, count, f"{child_name(call, 'repeat')}.{axis}")
    t.same(call, name)


@translates("aten.unbind.int")
def _unbind(t: Translator, call: fx.Node) -> None:
    name, own = t.value(call.args[0]), child_name(call, "unbind")
    shape = t.shape_of(name)
    axis = int(arguments(call, ("self", None), ("dim", 0))[1]) % (len(shape) + 1) - 1
    if axis < 0:
        raise CallError("single images")
    t.several(call, [partial(selected, t, name, axis, index, f"{own}{index}") for index in range(shape[axis])])


@translates("aten.pixel_shuffle.default")
def _pixel_shuffle(t: Translator, call: fx.Node) -> None:
    name, factor = t.image(call.args[0]), int(call.args[1])  # type: ignore[arg-type]
    channels, height, width = t.shape_of(name)
    inner = (channels // factor**2, factor, factor, height, width)
    _moved(t, call, inner, (0, 3, 1, 4, 2), "pixel_shuffle")


@translates("aten.pixel_unshuffle.default")
def _pixel_unshuffle(t: Translator, call: fx.Node) -> None:
    name, factor = t.image(call.args[0]), int(call.args[1])  # type: ignore[arg-type]
    channels, height, width = t.shape_of(name)
    inner = (channels, height // factor, factor, width // factor, factor)
    _moved(t, call, inner, (0, 2, 4, 1, 3), "pixel_unshuffle")


@translates("aten.channel_shuffle.default")
def _channel_shuffle(t: Translator, call: fx.Node) -> None:
    name, groups = t.image(call.args[0]), int(call.args[1])  # type: ignore[arg-type]
    channels, height, width = t.shape_of(name)
    _moved(t, call, (groups, channels // groups, height, width), (1, 0, 2, 3), "channel_shuffle")


def _moved(t: Translator, call: fx.Node, inner: tuple[int, ...], permutation: tuple[int, ...], kind: str) -> None:
    """Adds a reshape to `inner`, a transposition of it, and a reshape to the call's own shape."""
    name, own = t.value(call.args[0]), child_name(call, kind)
    apart = t.add(f"{own}.apart", Reshape(inner), [name], inner)
    shape = tuple(inner[i] for i in permutation)
    turned = t.add(f"{own}.turned", Transpose(permutation), [apart], shape)
    t.emit(call, Reshape(t.shape(call)), [turned], own)


@translates("aten.cat.default")
def _cat(t: Translator, call: fx.Node) -> None:
    parts, dim = arguments(call, ("tensors", None), ("dim", 0))
    axis = int(dim) % (len(t.shape(call)) + 1) - 1
    if axis < 0:
        raise CallError("a concatenation of images")
    if not all(map(t.is_value, parts)):
        raise CallError("constants among its parts")
    t.emit(call, Concat(axis), [t.value(part) for part in parts], child_name(call, "concat"))


@translates("aten.stack.default")
def _stack(t: Translator, call: fx.Node) -> None:
    parts, dim = arguments(call, ("tensors", None), ("dim", 0))
    axis = int(dim) % (len(t.shape(call)) + 1) - 1
    if axis < 0:
        raise CallError("a stack of images")
    own, names = child_name(call, "stack"), [t.value(part) for part in parts]
    shape = t.shape(call)
    single = (*shape[:axis], 1, *shape[axis + 1 :])
    apart = [t.add(f"{own}.part{index}", Reshape(single), [name], single) for index, name in enumerate(names)]
    t.emit(call, Concat(axis), apart, own)


@translates("aten.index_select.default")
def _index_select(t: Translator, call: fx.Node) -> None:
    _picked(t, call, int(call.args[1]), t.constant(call.args[2]))  # type: ignore[arg-type]


@translates("aten.index.Tensor")
def _index(t: Translator, call: fx.Node) -> None:
    indices = list(call.args[1])  # type: ignore[arg-type]
    given = [dim for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1 or t.is_value(indices[given[0]]):
        raise CallError("indices of several dimensions, or that depend on the image")
    _picked(t, call, given[0], t.constant(indices[given[0]]))


def _picked(t: Translator, call: fx.Node, dim: int, indices: Tensor | None) -> None:
    name = t.value(call.args[0])
    axis = dim % (len(t.shape_of(name)) + 1) - 1
    if axis < 0 or indices is None or indices.dim() != 1:
        raise CallError("a choice of images, or of several at a time")
    chosen = [int(index) % t.shape_of(name)[axis] for index in indices]
    t.same(call, pick(t, name, axis, chosen, child_name(call, "index")))


def pick(t: Translator, name: str, axis: int, indices: Sequence[int], own: str) -> str:
    """Adds slices of neighbours along an axis of the tensor `name`, joined in the order of `indices`, and returns the
    name of what they make."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    if len(runs) > _MOST_RUNS:
        raise CallError(f"{len(runs)} runs of neighbours (at most {_MOST_RUNS} are supported)")
    shape, parts = t.shape_of(name), []
    for number, run in enumerate(runs):
        part = (*shape[:axis], len(run), *shape[axis + 1 :])
        whole = part == shape and run[0] == 0
        op = Slice(axis, run[0], run[-1] + 1, 1)
        parts.append(name if whole else t.add(f"{own}.part{number}", op, [name], part))
    joined = (*shape[:axis], len(indices), *shape[axis + 1 :])
    return parts[0] if len(parts) == 1 else t.add(own, Concat(axis), parts, joined)


@translates("aten.select.int")
def _select(t: Translator, call: fx.Node) -> None:
    name = t.value(call.args[0])
    _, dim, index = call.args
    shape = t.shape_of(name)
    axis = int(dim) % (len(shape) + 1) - 1  # type: ignore[arg-type]
    if axis < 0:
        raise CallError("a choice of images")
    t.same(call, selected(t, name, axis, int(index) % shape[axis], child_name(call, "select")))  # type: ignore[arg-type]


def selected(t: Translator, name: str, axis: int, index: int, own: str) -> str:
    """Takes one entry of the tensor `name` along an axis, which goes, and returns the name of the result."""
    shape = t.shape_of(name)
    part = pick(t, name, axis, [index], own)
    rest = (*shape[:axis], *shape[axis + 1 :])
    return t.add(f"{own}.squeeze", Reshape(rest), [part], rest)


@translates("aten.flip.default")
def _flip(t: Translator, call: fx.Node) -> None:
    name = t.value(call.args[0])
    for dim in call.args[1]:  # type: ignore[union-attr]
        axis = int(dim) % (len(t.shape(call)) + 1) - 1  # type: ignore[arg-type]
        if axis < 0:
            raise CallError("the order of the images")
        name = pick(t, name, axis, range(t.shape_of(name)[axis])[::-1], child_name(call, "flip"))
    t.same(call, name)


@translates("aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default")
def _split(t: Translator, call: fx.Node) -> None:
    dim = arguments(call, ("self", None), ("size", None), ("dim", 0))[2]
    name = t.value(call.args[0])
    values = call.meta["val"]
    axis = int(dim) % values[0].dim() - 1
    if axis < 0:
        raise CallError("a split of the batch")
    parts, start = [], 0
    for index, value in enumerate(values):
        shape = tuple(int(size) for size in value.shape[1:])
        op = Slice(axis, start, start + shape[axis], 1)
        parts.append(partial(t.add, child_name(call, f"split{index}"), op, [name], shape))
        start += shape[axis]
    t.several(call, parts)


@translates("getitem")
def _getitem(t: Translator, call: fx.Node) -> None:
    source, index = call.args
    assert isinstance(source, fx.Node)
    assert isinstance(index, int)
    part = t.part(source, index)
    if part is not None:
        t.same(call, part)
    elif index == 0:
        t.same(call, t.value(source))
    else:
        raise CallError(f"output {index} of {source}")


@translates("aten.slice.Tensor")
def _slice(t: Translator, call: fx.Node) -> None:
    x, dim, start, stop, step = arguments(call, ("self", None), ("dim", 0), ("start", None), ("end", None), ("step", 1))
    name = t.value(x)
    shape = t.shape_of(name)
    axis = int(dim) % (len(shape) + 1) - 1
    size = TRACE_BATCH if axis < 0 else shape[axis]
    first, last, _ = slice(start, stop).indices(size)
    if (first, last, step) == (0, size, 1):
        t.same(call, name)
    elif axis < 0:
        raise CallError("a slice of the batch")
    else:
        t.emit(call, Slice(axis, first, last, int(step)), [name], child_name(call, "slice"))


@translates(
    "aten.dropout.default", "aten.feature_dropout.default", "aten.alias.default", "aten.clone.default",
    "aten.contiguous.default", "aten.detach.default", "aten.detach_.default", "aten.to.dtype", "aten._to_copy.default",
    "aten.type_as.default",
)  # fmt: skip
def _identity(t: Translator, call: fx.Node) -> None:
    """Leaves out a call that computes nothing. Other float types count as float32: the network's own logits say whether
    they may."""
    if not call.meta["val"].is_floating_point():
        raise CallError(f"a tensor that becomes {call.meta['val'].dtype}")
    t.same(call, t.value(call.args[0]))


@translates(
    "_guards_fn", "aten._assert_tensor_metadata.default", "aten.sym_size.int", "aten.sym_constrain_range.default"
)
def _ignored(t: Translator, call: fx.Node) -> None:
    """Checks that export adds; they compute nothing."""
