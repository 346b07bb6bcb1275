"""The values that the shell completes. None of it imports torch."""

from collections.abc import Callable


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Returns a completion by fixed values."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def presets(incomplete: str) -> list[str]:
    """Returns the names of built-in recipes."""
    from intraq_deploy.recipes import BUILTIN

    return one_of(*BUILTIN)(incomplete)


def targets(incomplete: str) -> list[str]:
    """Returns the names of targets and devices."""
    from intraq_deploy.pipeline.known import known_targets

    return one_of(*known_targets())(incomplete)


def architectures(incomplete: str) -> list[str]:
    """Returns the known architectures, as torchvision:NAME and timm:NAME."""
    from intraq_deploy.pipeline.known import known_architectures

    return one_of(*known_architectures())(incomplete)
