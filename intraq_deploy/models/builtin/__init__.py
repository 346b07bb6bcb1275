"""Networks that ship with the package, with their weights."""

from intraq_deploy.models.builtin.networks import NETWORKS, BuiltinNetwork, builtin_network
from intraq_deploy.models.builtin.resnet20 import ResNet20

__all__ = ["NETWORKS", "BuiltinNetwork", "ResNet20", "builtin_network"]
