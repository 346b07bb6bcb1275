"""TensorRT's versions, as the runner knows them, with this package's errors."""

from intraq_deploy.errors import TargetError
from intraq_deploy.targets.device.runner import versions
from intraq_deploy.targets.device.runner.base import Problem
from intraq_deploy.targets.device.runner.versions import Switches


def parsed(version: str) -> tuple[int, int]:
    """Major and minor version: "10.13.2.6" is (10, 13). Raises TargetError for what is no version."""
    try:
        return versions.version_of(version)
    except Problem as error:
        raise TargetError(f"TensorRT calls its version {version!r}, which is none: install 8.5 to 11.") from error


def switches_of(version: str, *, half: bool = False) -> Switches:
    """The flags that a version wants. half: for a model that computes in float16.

    Raises TargetError for a version before 8.5 or after 11, and for what is no version.
    """
    parsed(version)
    try:
        return versions.switches_of(version, half)
    except Problem as error:
        raise TargetError(f"TensorRT {version} is not known here: install 8.5 to 11.") from error
