"""The effect of Ctrl-C and SIGTERM on a command."""

import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes: 128 and the signal's number."""


_sent: list[int] = []
"""The signals that were sent to end the process: Typer makes an exit code of Ctrl-C out of any of them."""


def exit_code() -> int:
    """Returns the exit code of a command that a signal has ended."""
    return TERMINATED if signal.SIGTERM in _sent else INTERRUPTED


def handle() -> None:
    """Lets SIGTERM do what Ctrl-C does."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    _sent.append(number)
    raise KeyboardInterrupt
