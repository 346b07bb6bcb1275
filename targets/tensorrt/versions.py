"""What each version of TensorRT wants to be told of a network whose types are in its Q/DQ nodes.

Versions are compared, modules are not searched for what they have: a flag that is missing where it is needed is an
error, not another path.
"""

from dataclasses import dataclass, replace

from intraq_deploy.errors import TargetError

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Switches:
    """Names of flags to set."""

    network: tuple[str, ...] = ()
    """Of NetworkDefinitionCreationFlag."""
    builder: tuple[str, ...] = ()
    """Of BuilderFlag. FP16 is not among them: it would let TensorRT compute sums between quantizers in float16, where
    they are not those of the program."""
    half: tuple[str, ...] = ()
    """Of BuilderFlag, in place of `builder`, for models that compute in float16."""


ALWAYS_TYPED = Switches()
_SINCE: tuple[tuple[Version, Switches], ...] = (
    ((11, 0), ALWAYS_TYPED),
    ((10, 12), Switches(network=("STRONGLY_TYPED",))),
    ((10, 0), Switches(builder=("INT8",), half=("FP16",))),
    ((8, 5), Switches(network=("EXPLICIT_BATCH",), builder=("INT8",), half=("FP16",))),
)
"""The newest first."""
_NEXT = 12
"""The first major version that nobody here has read about."""


def parsed(version: str) -> Version:
    """ "10.13.2.6" as (10, 13): what flags depend on."""
    try:
        major, minor = version.split(".")[:2]
        return int(major), int(minor)
    except ValueError as error:
        raise TargetError(f"TensorRT calls its version {version!r}, which is none: install 8.5 to 11.") from error


def switches_of(version: str, *, half: bool = False) -> Switches:
    """half: for a model that computes in float16. Raises TargetError for a version before 8.5 or after 11."""
    found = parsed(version)
    if found[0] < _NEXT:
        for since, switches in _SINCE:
            if found >= since:
                return replace(switches, builder=switches.half) if half else switches
    raise TargetError(f"TensorRT {version} is not known here: install 8.5 to 11.")
