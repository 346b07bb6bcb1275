"""Shapes of a state_dict, and which of their dimensions follow the class count or the input channels.

A network built twice, with two class counts and two channel counts, shows which dimensions are free:
everything else belongs to the architecture. The probe counts are chosen so that a dimension's two sizes name
their cause: 1009 is prime, so a * 1009 -> a * 1013 can only be classes, and a * 3 -> a * 4 only channels.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intraq_deploy.models.wrappers import is_loose

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes by tensor name."""

BuildNetwork = Callable[[int, int], nn.Module]
"""A function from the class count and the input channels to the network, with any weights."""

PROBE_CLASSES = (1009, 1013)
PROBE_CHANNELS = (3, 4)

AUXILIARY = re.compile(r"^(aux\d*|AuxLogits)\.")
"""Heads that help training only (GoogLeNet, Inception): never part of the deployed network."""


@dataclass(frozen=True, slots=True, order=True)
class FreeDimension:
    """One dimension of one tensor whose size is `factor` times a count (of classes, or of input channels)."""

    key: str
    dimension: int
    factor: int = 1

    def count(self, shapes: Shapes) -> int | None:
        """The count that `shapes` shows in this dimension; None where the tensor is absent or does not divide."""
        shape = shapes.get(self.key, ())
        if self.dimension >= len(shape) or shape[self.dimension] % self.factor:
            return None
        return shape[self.dimension] // self.factor


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """Every free dimension of an architecture, sorted."""

    classes: tuple[FreeDimension, ...]
    channels: tuple[FreeDimension, ...]

    def names(self) -> frozenset[str]:
        """The tensors that have a free dimension."""
        return frozenset(free.key for free in (*self.classes, *self.channels))


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes that identify an architecture, of tensors of any dtype and shape.

    Counters of batches and auxiliary heads are left out, as old checkpoints lack the first and deployed ones the
    second; and single numbers beside the network.
    """
    return {
        key: tuple(tensor.shape)
        for key, tensor in tensors.items()
        if not key.endswith("num_batches_tracked") and not AUXILIARY.match(key) and not is_loose(key, tensor)
    }


def shared_count(frees: Iterable[FreeDimension], shapes: Shapes) -> int | None:
    """The one count that all `frees` show in `shapes`; None if they differ, or there are none."""
    counts = {free.count(shapes) for free in frees}
    return counts.pop() if len(counts) == 1 else None


def find_signature(first: Shapes, second: Shapes) -> Signature:
    """Compares two builds of one architecture, made with `PROBE_CLASSES` and `PROBE_CHANNELS`.

    Raises ValueError if the two differ in anything but dimensions proportional to those counts.
    """
    if first.keys() != second.keys():
        raise ValueError(f"the tensor {min(first.keys() ^ second.keys())} comes and goes with the counts")

    classes: list[FreeDimension] = []
    channels: list[FreeDimension] = []
    for key, shape in first.items():
        other = second[key]
        if len(shape) != len(other):
            raise ValueError(f"the rank of {key} changes with the counts")

        for dimension, sizes in enumerate(zip(shape, other, strict=True)):
            if sizes[0] == sizes[1]:
                continue
            if factor := _factor(sizes, PROBE_CLASSES):
                classes.append(FreeDimension(key, dimension, factor))
            elif factor := _factor(sizes, PROBE_CHANNELS):
                channels.append(FreeDimension(key, dimension, factor))
            else:
                raise ValueError(f"{key} changes from {list(shape)} to {list(other)} with the counts")

    return Signature(tuple(sorted(classes)), tuple(sorted(channels)))


@dataclass(frozen=True, slots=True)
class Probed:
    """The findings of two builds of one architecture."""

    module: nn.Module
    """The first build; its tensors may be without memory."""
    shapes: Shapes
    """The shapes of the first build, with `PROBE_CLASSES[0]` classes and the first of the channel counts."""
    signature: Signature


def probe(build: BuildNetwork, *, channels: tuple[int, int] = PROBE_CHANNELS) -> Probed:
    """Builds a network twice, without memory where it can be built on the meta device.

    channels: the channel counts of the two builds; equal ones where the network takes only one.
    Raises ValueError if the builds differ in anything but proportional dimensions; what `build` raises.
    """
    first, second = (build_for_shapes(build, *counts) for counts in zip(PROBE_CLASSES, channels, strict=True))
    shapes = shapes_of(first.state_dict())
    return Probed(first, shapes, find_signature(shapes, shapes_of(second.state_dict())))


def probe_same_channels(build: BuildNetwork) -> Probed:
    """Probes a network that takes one number of channels only."""
    return probe(build, channels=(PROBE_CHANNELS[0], PROBE_CHANNELS[0]))


def probe_any_channels(build: BuildNetwork) -> Probed:
    """Probes a network with two channel counts; with one where it does not take another."""
    try:
        return probe(build)
    except Exception:  # any library's constructor may refuse in its own way
        return probe_same_channels(build)


def build_for_shapes(build: BuildNetwork, classes: int, channels: int) -> nn.Module:
    """Builds a network on the meta device, or for real where a constructor computes with values."""
    try:
        with torch.device("meta"):
            return build(classes, channels)
    except Exception:  # in its own way; if it is not the meta device's fault, it will fail again
        return build(classes, channels)


def _factor(sizes: tuple[int, int], counts: tuple[int, int]) -> int | None:
    """The factor f with sizes == f * counts, or None."""
    factor, rest = divmod(sizes[0], counts[0])
    return factor if rest == 0 and factor > 0 and sizes[1] == factor * counts[1] else None
