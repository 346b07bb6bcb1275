"""A command that is one of several processes: its number, and its exit code. Imports no torch."""

import os
import time
from contextlib import suppress
from pathlib import Path

from intraq_deploy.errors import LostProcessError

OUTCOME = "INTRAQ_DEPLOY_OUTCOME"
"""The environment variable with the file that the process that leads writes its exit code to, for whoever started it:
what is no matter of lost processes is no reason to start again."""
_PATIENCE = 10.0
"""Seconds that other processes wait for it, at most."""


def rank() -> int:
    """Returns the number of this process among those that were started together, from 0, which leads."""
    return int(os.environ.get("RANK", "0")) if "WORLD_SIZE" in os.environ else 0


def exit_code(code: int) -> int:
    """Returns the exit code by which whoever started this process knows whether it was lost. code: the command's."""
    if OUTCOME not in os.environ or "RANK" not in os.environ:
        return code
    outcome = Path(os.environ[OUTCOME])
    if rank() == 0 and code != LostProcessError.exit_code:
        with suppress(OSError):
            outcome.write_text(str(code))
            return 0
    end = time.monotonic() + (_PATIENCE if rank() and code else 0.0)
    while not outcome.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return 0 if outcome.exists() else code
