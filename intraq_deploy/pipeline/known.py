"""Names that people may type, for shells to complete. Imports no torch."""

from intraq_deploy.models.fingerprint import load_index
from intraq_deploy.targets.device.profile import device_names
from intraq_deploy.targets.profile import profile_names


def known_targets() -> list[str]:
    """Returns the names of targets and devices."""
    return [*profile_names(), *device_names()]


def known_architectures() -> list[str]:
    """Returns the architectures that are recognised, as torchvision:NAME and timm:NAME."""
    return list(load_index().specs)
