"""The first convolution: where a network shows how many channels its input has."""

import torch
from torch import nn


def first_convolution(module: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The name and module of the first Conv2d in order of registration; None if there is none."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d):
            return name, child
    return None


def with_input_channels(module: nn.Module, channels: int) -> nn.Module:
    """Gives a freshly built network another number of input channels, in place, with new random weights there.

    Returns `module`. Raises ValueError for a network that has no convolution, or a grouped one first.
    """
    found = first_convolution(module)
    if found is None:
        raise ValueError("it has no convolution whose input channels could be changed")
    name, old = found
    if old.in_channels == channels:
        return module
    if old.groups != 1:
        raise ValueError(f"its first convolution {name} is grouped")

    with torch.device(old.weight.device):
        new = nn.Conv2d(
            channels,
            old.out_channels,
            old.kernel_size,  # type: ignore[arg-type]
            stride=old.stride,  # type: ignore[arg-type]
            padding=old.padding,  # type: ignore[arg-type]
            dilation=old.dilation,  # type: ignore[arg-type]
            bias=old.bias is not None,
            padding_mode=old.padding_mode,
        )
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, new)
    return module
