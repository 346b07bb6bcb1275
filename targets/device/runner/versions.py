"""TensorRT's versions, and the switches that each wants for a network whose types are in its Q/DQ nodes."""

import re
from typing import NamedTuple, Tuple

from .base import Problem


def version_of(text: str) -> Tuple[int, int]:
    """Major and minor version: "10.3.0" is (10, 3). Raises Problem for what is no version."""
    numbers = re.match(r"(\d+)\.(\d+)", text)
    if numbers is None:
        raise Problem(f"a runtime calls its version {text!r}, which is none", "install it again")
    return int(numbers.group(1)), int(numbers.group(2))


class Switches(NamedTuple):
    """Names of flags to set."""

    network: Tuple[str, ...] = ()
    """Names of NetworkDefinitionCreationFlag."""
    builder: Tuple[str, ...] = ()
    """Names of BuilderFlag. FP16 is for models that compute in float16 only: it would let TensorRT compute sums between
    quantizers in float16, where they are not those of the program."""
    trtexec: Tuple[str, ...] = ()
    """Options of trtexec that say the same."""


def switches_of(version: str, half: bool = False) -> Switches:
    """The switches of a version. half: for a model that computes in float16. Raises Problem before 8.5 or after 11."""
    found, kind = version_of(version), "FP16" if half else "INT8"
    option = f"--{kind.lower()}"
    since = (
        ((12, 0), None),
        ((11, 0), Switches((), (), ("--skipInference",))),
        ((10, 12), Switches(("STRONGLY_TYPED",), (), ("--stronglyTyped", "--skipInference"))),
        ((10, 0), Switches((), (kind,), (option, "--skipInference"))),
        ((8, 6), Switches(("EXPLICIT_BATCH",), (kind,), (option, "--skipInference"))),
        ((8, 5), Switches(("EXPLICIT_BATCH",), (kind,), (option, "--buildOnly"))),
    )
    switches = next((switches for first, switches in since if found >= first), None)
    if switches is None:
        raise Problem(f"TensorRT {version} is here, and run.py knows 8.5 to 11", "install one of those")
    return switches


def workspace_of(free: int) -> int:
    """Bytes that kernels may use, of those that are free: half of them, the rest is for weights and activations.

    TensorRT's own limit is all of the GPU's memory, which on a Jetson is the system's as well.
    """
    return free // 2
