"""The networks that ship with the package: one entry per network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from intraq_deploy.errors import ArchitectureError
from intraq_deploy.models.builtin.resnet20 import ResNet20
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.wording import nearest


@dataclass(frozen=True, slots=True)
class BuiltinNetwork:
    """A network, its weights and what its inputs and outputs mean."""

    build: Callable[[int, int], nn.Module]
    """A function from the class count and the input channels to the network with random weights."""
    weights: Path
    """The file of the network's state_dict, safetensors."""
    preprocessing: Preprocessing
    class_names: tuple[str, ...]


CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

NETWORKS = {
    "resnet20-cifar10": BuiltinNetwork(
        build=ResNet20,
        weights=Path(__file__).with_name("resnet20_cifar10.safetensors"),
        preprocessing=Preprocessing(
            input_size=(32, 32),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            source="builtin resnet20-cifar10",
        ),
        class_names=CIFAR10_CLASSES,
    ),
}
"""The networks by name, as in "builtin:resnet20-cifar10"."""


def builtin_network(name: str) -> BuiltinNetwork:
    """Finds a built-in network by its name. Raises ArchitectureError for an unknown one."""
    if name not in NETWORKS:
        raise ArchitectureError(f"there is no built-in network {name!r}; {nearest(name, NETWORKS)}.")
    return NETWORKS[name]
