"""The attributes of a node, and what its windows and paddings mean."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

Attributes = dict[str, Any]
"""Attributes by name, as Python's own values and NumPy arrays."""


class NodeError(Exception):
    """Why a node cannot be computed; the network adds which."""


def sides(a: Attributes, x: Tensor, kernel: Sequence[int]) -> tuple[int, int, int, int]:
    """Returns the padding at the top, left, bottom and right of an image for a node with windows.

    x: the image, float32 [N, C, H, W]. `auto_pad` makes it depend on the image's size: SAME gives as many windows as
    strides fit into the image.
    """
    kind = a.get("auto_pad", "NOTSET")
    if kind == "NOTSET":
        top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
        return top, left, bottom, right
    if kind == "VALID":
        return 0, 0, 0, 0
    totals = []
    for size, window, stride, dilation in zip(
        x.shape[2:], kernel, pair(a, "strides"), pair(a, "dilations"), strict=True
    ):
        totals.append(max(0, (-(-size // stride) - 1) * stride + dilation * (window - 1) + 1 - size))
    first = [total // 2 if kind == "SAME_UPPER" else -(-total // 2) for total in totals]
    return first[0], first[1], totals[0] - first[0], totals[1] - first[1]


def pair(a: Attributes, name: str) -> tuple[int, int]:
    """Returns an attribute of height and width, which are 1 where it is left out. Raises NodeError for others."""
    values = tuple(a.get(name, (1, 1)))
    if len(values) != 2:
        raise NodeError(f"{name} of {len(values)} dimensions")
    return values


def padded(x: Tensor, around: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """Pads the image x, float32 [N, C, H, W], with a value at the top, left, bottom and right."""
    top, left, bottom, right = around
    return F.pad(x, (left, right, top, bottom), value=value) if any(around) else x
