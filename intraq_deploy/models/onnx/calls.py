"""The registry of ONNX's operators without weights, as functions of torch tensors.

A function gets the node's attributes and its inputs: tensors, float32 [N, ...], for what depends on the image and for
constants of several values; NumPy arrays for other constants; None for what is left out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[..., Any]

CALLS: dict[str, Call] = {}
"""Functions by the operator that they compute; elements.py, windows.py and moves.py fill it."""

DESCRIBE = ("Shape", "Size")
"""Operators that make an array of what describes a tensor's shape."""


def computes(kind: str) -> Callable[[Call], Call]:
    """Registers a function for an operator."""

    def register(call: Call) -> Call:
        CALLS[kind] = call
        return call

    return register


def number(value: Any) -> float:
    """Returns the single number in an array of any shape."""
    return float(np.asarray(value).item())
