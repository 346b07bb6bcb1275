"""The effect of Ctrl-C and SIGTERM on a command."""

import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes: 128 and the signal's number."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM: what Ctrl-C does is done, with another exit code."""


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """Returns the exit code of a command that a signal has ended."""
    return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


def handle() -> None:
    """Lets SIGTERM do what Ctrl-C does."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
