"""The errors of this package, as one small tree.

Every message is one sentence for a person: what happened, the value seen, and what to do. The command line prints it
alone and exits with the class's `exit_code`; the traceback appears only with `--debug`.
"""

from collections.abc import Sequence


class IntraqError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class UsageError(IntraqError):
    """An option or argument is wrong in itself: nothing was started."""

    exit_code = 2


class CheckpointError(IntraqError):
    """A checkpoint cannot be read, or does not fit its architecture."""


class ArchitectureError(IntraqError):
    """The architecture is unknown, ambiguous, or cannot be built."""


class AmbiguousError(ArchitectureError):
    """A checkpoint has the tensors of several architectures."""

    def __init__(self, message: str, specs: Sequence[str]) -> None:
        super().__init__(message)
        self.specs = tuple(specs)


class UnsupportedModelError(IntraqError):
    """The network has a part that this package cannot synthesize from, trace or quantize."""


class DataError(IntraqError):
    """Labelled images, calibration images, class names or synthetic images cannot be used."""


class DivergedError(IntraqError):
    """A loss became NaN or infinite."""


class FreezeError(IntraqError):
    """A trained network breaks the integer contract (an overflow, an unsettled grid)."""


class TargetError(IntraqError):
    """A target is unknown, its runtime is missing, or it refuses the program."""


class AbsentError(TargetError):
    """A runtime or a program that a target needs is not here. `doctor` shows what was found and the remedy apart."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"{found}: {remedy}.")
        self.found, self.remedy = found, remedy


class RunError(IntraqError):
    """A run directory is missing, unwritable, or was made by something else."""


class GateError(IntraqError):
    """Validation ran and found a difference beyond what the program declares."""

    exit_code = 3


class ShortageError(IntraqError):
    """Memory does not suffice for a stage."""


class LostProcessError(IntraqError):
    """Another process of the same run is gone."""

    exit_code = 75
