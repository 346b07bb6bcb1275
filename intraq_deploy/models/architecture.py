"""Architectures, as `--arch` names them: they are built for a class count and a channel count."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from intraq_deploy.errors import ArchitectureError, IntraqError
from intraq_deploy.models import timm_zoo, torchvision_zoo
from intraq_deploy.models.builtin import builtin_network
from intraq_deploy.models.fingerprint import load_index
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.models.shapes import (
    BuildNetwork,
    Shapes,
    probe_any_channels,
    probe_same_channels,
    shared_count,
)
from intraq_deploy.models.user_code import user_network
from intraq_deploy.wording import nearest, reason

FORMS = "builtin:NAME, torchvision:NAME, timm:NAME, package.module:callable or path/to/file.py:callable"

USUAL_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network that can be built, and what its weights entry says about its inputs and outputs."""

    spec: str
    build: BuildNetwork
    any_classes: bool = True
    any_channels: bool = True
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None
    """Class names of the weights entry; they apply where their number is the class count."""

    def counts(self, *readings: Shapes) -> tuple[int | None, int]:
        """Finds the class count and input channels that a checkpoint's shapes show, by comparing two builds.

        readings: its shapes under different names; the first that shows the class count is taken, else the last.
        Returns the class count, None where it does not show, and the channels, `USUAL_CHANNELS` where they
        do not.
        Raises ArchitectureError if it cannot be built, or changes with the counts in more than sizes.
        """
        if not self.any_classes:
            return None, USUAL_CHANNELS
        try:
            probed = probe_any_channels(self.make) if self.any_channels else probe_same_channels(self.make)
        except ValueError as error:
            raise ArchitectureError(
                f"{self.spec} cannot be compared with the checkpoint, whose class count is unknown: {error}; "
                "name a callable that takes no arguments."
            ) from error
        shown = (shapes for shapes in readings if shared_count(probed.signature.classes, shapes) is not None)
        shapes = next(shown, readings[-1])
        classes = shared_count(probed.signature.classes, shapes)
        return classes, shared_count(probed.signature.channels, shapes) or USUAL_CHANNELS

    def make(self, classes: int, channels: int) -> nn.Module:
        """Builds the network with random weights. Raises ArchitectureError for one that cannot be built."""
        try:
            return self.build(classes, channels)
        except IntraqError:
            raise
        except Exception as error:  # any library's constructor may refuse in its own way
            raise ArchitectureError(
                f"{self.spec} cannot be built for {classes} classes and {channels} input channels "
                f"({reason(error)}); name another architecture with --arch."
            ) from error


def find_architecture(spec: str) -> Architecture:
    """Finds the architecture that an `--arch` specification names.

    Raises ArchitectureError for an unknown name or form, code that cannot be imported, or a library that is
        not installed.
    """
    library, colon, name = spec.partition(":")
    if not colon or not name:
        raise ArchitectureError(_no_form(spec))
    if library in LIBRARIES:
        return LIBRARIES[library](name)

    network = user_network(spec)
    return Architecture(spec, network.build, any_classes=network.takes_classes, any_channels=False)


def _builtin(name: str) -> Architecture:
    network = builtin_network(name)
    return Architecture(
        f"builtin:{name}",
        network.build,
        preprocessing=network.preprocessing,
        class_names=network.class_names,
    )


def _torchvision(name: str) -> Architecture:
    preprocessing = torchvision_zoo.preprocessing(name)
    names = torchvision_zoo.class_names(name)
    return Architecture(
        f"torchvision:{name}",
        partial(torchvision_zoo.build, name),
        preprocessing=preprocessing,
        class_names=names,
    )


def _timm(name: str) -> Architecture:
    return Architecture(
        f"timm:{name}",
        partial(timm_zoo.build, name),
        preprocessing=timm_zoo.preprocessing(name),
    )


LIBRARIES: dict[str, Callable[[str], Architecture]] = {
    "builtin": _builtin,
    "torchvision": _torchvision,
    "timm": _timm,
}
"""Functions that find the architecture of a name, by the library before the colon."""


def _no_form(spec: str) -> str:
    known = [known for known in load_index().specs if known.partition(":")[2] == spec]
    if known:
        return f"--arch {spec} does not say whose; give --arch {' or --arch '.join(known)}."
    names = {known.partition(":")[2]: known for known in load_index().specs}
    return f"--arch {spec} is none of {FORMS}; {nearest(spec, names)}."
