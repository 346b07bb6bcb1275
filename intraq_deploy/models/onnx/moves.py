"""Shapes, and operators that only move data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intraq_deploy.models.onnx.attributes import Attributes, NodeError
from intraq_deploy.models.onnx.calls import computes, number


@computes("Shape")
def _shape(a: Attributes, x: Tensor) -> np.ndarray:
    return np.array(list(x.shape)[a.get("start", 0) : a.get("end")], np.int64)


@computes("Size")
def _size(_: Attributes, x: Tensor) -> np.ndarray:
    return np.array(x.numel(), np.int64)


@computes("Reshape")
def _reshape(a: Attributes, x: Tensor, shape: Any) -> Tensor:
    sizes = [int(size) for size in shape]
    if not a.get("allowzero", 0):
        sizes = [x.shape[index] if size == 0 else size for index, size in enumerate(sizes)]
    return x.reshape(_any_batch(a, x, sizes))


def _any_batch(a: Attributes, x: Tensor, sizes: list[int]) -> list[int]:
    """Sizes for the batch at hand, of a file that was exported for one batch size and says so in its shapes."""
    fixed = sizes and sizes[0] == a["batch"] != x.shape[0]
    return [x.shape[0], *sizes[1:]] if fixed else sizes


@computes("Flatten")
def _flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1) % (x.dim() + 1)
    if axis == 0:
        raise NodeError("axis 0, which mixes images")
    return x.flatten(axis).flatten(0, axis - 1)


@computes("Transpose")
def _transpose(a: Attributes, x: Tensor) -> Tensor:
    return x.permute(a.get("perm", list(range(x.dim()))[::-1]))


@computes("Squeeze")
def _squeeze(_: Attributes, x: Tensor, axes: Any = None) -> Tensor:
    # Without axes, the batch stays: it is 1 in the file, not here.
    given = [index for index, size in enumerate(x.shape) if size == 1 and index > 0] if axes is None else axes
    return x.squeeze([int(axis) for axis in given])


@computes("Unsqueeze")
def _unsqueeze(_: Attributes, x: Tensor, axes: Any) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(int(axis) % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@computes("Expand")
def _expand(a: Attributes, x: Tensor, shape: Any) -> Tensor:
    sizes = _any_batch(a, x, [int(size) for size in shape])
    return x.expand(torch.broadcast_shapes(x.shape, sizes))


@computes("Tile")
def _tile(_: Attributes, x: Tensor, counts: Any) -> Tensor:
    return x.repeat([int(count) for count in counts])


@computes("Concat")
def _concat(a: Attributes, *parts: Tensor) -> Tensor:
    if not all(isinstance(part, Tensor) and part.shape[0] == parts[0].shape[0] for part in parts):
        raise NodeError("a constant among its parts")
    return torch.cat(parts, a["axis"])


@computes("Split")
def _split(a: Attributes, x: Tensor, sizes: Any = None) -> list[Tensor]:
    axis = a.get("axis", 0)
    each = -(-x.shape[axis] // a["outputs"]) if sizes is None else [int(size) for size in sizes]
    return list(torch.split(x, each, axis))


@computes("SplitToSequence")
def _split_to_sequence(a: Attributes, x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
    axis, stays = a.get("axis", 0), sizes is not None or a.get("keepdims", 1)
    each = 1 if sizes is None else int(sizes) if np.ndim(sizes) == 0 else [int(size) for size in sizes]
    parts = torch.split(x, each, axis)
    return parts if stays else tuple(part.squeeze(axis) for part in parts)


@computes("SequenceAt")
def _sequence_at(_: Attributes, parts: tuple[Tensor, ...], index: Any) -> Tensor:
    return parts[int(index)]


@computes("Slice")
def _slice(_: Attributes, x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _sliced(x, int(axis), slice(int(start), int(end), int(step)))
    return x


def _sliced(x: Tensor, axis: int, part: slice) -> Tensor:
    """A slice along one dimension; torch has no negative steps."""
    indices = range(x.shape[axis])[part]
    if part.step > 0:
        return x[(slice(None),) * (axis % x.dim()) + (slice(indices.start, indices.stop, part.step),)]
    return x.index_select(axis, torch.tensor(list(indices), device=x.device))


@computes("Gather")
def _gather(a: Attributes, x: Tensor, indices: Any) -> Tensor:
    axis = a.get("axis", 0) % x.dim()
    chosen = [int(index) % x.shape[axis] for index in indices.flatten()]
    y = x.index_select(axis, torch.tensor(chosen, device=x.device))
    return y.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@computes("Pad")
def _pad(a: Attributes, x: Tensor, pads: Any, value: Any = None, axes: Any = None) -> Tensor:
    rank, mode = x.dim(), a.get("mode", "constant")
    over = range(rank) if axes is None else [int(axis) % rank for axis in axes]
    sides_of = dict(zip(over, zip(pads[: len(over)], pads[len(over) :], strict=True), strict=True))
    amounts = [int(side) for axis in reversed(range(rank)) for side in sides_of.get(axis, (0, 0))]
    if mode == "constant":
        return F.pad(x, _without_zeros(amounts), value=0.0 if value is None else number(value))
    if any(amounts[4:]):
        raise NodeError(f"pads {list(pads)} in the mode {mode}")
    return F.pad(x, amounts[:4], {"edge": "replicate", "reflect": "reflect", "wrap": "circular"}[mode])


def _without_zeros(amounts: Sequence[int]) -> list[int]:
    """Amounts without those of the first dimensions, which are last, where they are zero."""
    kept = list(amounts)
    while len(kept) > 2 and kept[-2:] == [0, 0]:
        kept = kept[:-2]
    return kept


@computes("DepthToSpace")
def _depth_to_space(a: Attributes, x: Tensor) -> Tensor:
    factor = a["blocksize"]
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, factor)
    batch, channels, height, width = x.shape
    inner = channels // factor**2
    y = x.reshape(batch, factor, factor, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(batch, inner, height * factor, width * factor)


@computes("SpaceToDepth")
def _space_to_depth(a: Attributes, x: Tensor) -> Tensor:
    factor = a["blocksize"]
    batch, channels, height, width = x.shape
    y = x.reshape(batch, channels, height // factor, factor, width // factor, factor).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(batch, channels * factor**2, height // factor, width // factor)


@computes("Resize")
def _resize(a: Attributes, x: Tensor, _: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
    # Files before opset 11 do not say the place, and mean another than later ones that do not.
    mode, place = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "none")
    linear = mode == "linear" and place in ("half_pixel", "pytorch_half_pixel")
    if not (mode == "nearest" or linear):
        raise NodeError(f"mode {mode}, placed by {place} (nearest is supported, and linear placed by half_pixel)")
    if a.get("axes") is not None or x.dim() != 4:
        raise NodeError(f"axes, or {x.dim()} dimensions (an image of 4 is supported)")
    if sizes is None:
        sizes = [int(np.float32(scale) * np.float32(size)) for scale, size in zip(scales, x.shape, strict=True)]
    return F.interpolate(x, size=[int(size) for size in sizes[2:]], mode="bilinear" if linear else "nearest")
