"""The calls of an exported program: their names, their arguments, and the modules that they are in."""

from typing import Any

import torch
from torch import fx

_OPERATORS = ("torch.nn.modules.", "intraq_deploy.models.onnx.network.")
"""Where the modules come from that are one operator each."""

CONVOLUTION: tuple[tuple[str, Any], ...] = (
    ("input", None), ("weight", None), ("bias", None), ("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1),
)  # fmt: skip
"""The arguments of a convolution and their defaults, in order."""


def call_name(call: fx.Node) -> str:
    """The name that aten or Python has for what is called."""
    target = call.target
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def child_name(call: fx.Node, kind: str) -> str:
    """A name for a call without weights: its module's path if it is a module of its own, else path and kind."""
    stack = list((call.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    own_module = bool(stack) and str(stack[-1][1]).startswith(_OPERATORS)
    if own_module and path:
        return str(path)
    return f"{path}.{kind}" if path else kind


def arguments(call: fx.Node, *defaults: tuple[str, Any]) -> list[Any]:
    """The positional and keyword arguments of a call, filled up with defaults: (name, default) in order."""
    values = []
    for index, (name, default) in enumerate(defaults):
        values.append(call.args[index] if index < len(call.args) else call.kwargs.get(name, default))
    return values


def pair(value: Any) -> tuple[int, int]:
    """A number or one or two of them as height and width."""
    if isinstance(value, int):
        return (value, value)
    values = [int(v) for v in value]
    return (values[0], values[-1])
