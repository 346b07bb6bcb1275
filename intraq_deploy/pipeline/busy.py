"""How a process uses its machine: threads that wait, memory that is let go. Imports no torch: this is settled first."""

import ctypes
import os

_BUSY = 0.75
"""The load of each core from which on a machine is called busy."""
_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""The environment variables by which a person says how threads wait."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""The names of malloc's settings in glibc's malloc.h, and the environment variables by which a person gives them."""
_MALLOC = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX")
_LARGE, _STEP = 1 << 30, 64 << 20


def load() -> float | None:
    """Returns the processes that wanted a core in the last minute, if they keep this machine busy; else None."""
    value = os.getloadavg()[0]
    return value if value >= _BUSY * (os.cpu_count() or 1) else None


def wait_in_turn() -> None:
    """Lets torch's threads sleep while they wait for each other, where others want the cores.

    Threads that spin take a core from the thread that they wait for. With one busy core of two, steps of synthesis take
    2.2 times as long as with threads that sleep (ResNet-20, AMD EPYC); on a machine with nothing else to do, threads
    that sleep take 1.2 times as long as those that spin. What is computed is the same.
    """
    if load() is not None and not any(name in os.environ for name in _SETTINGS):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def keep_memory() -> None:
    """Lets the process keep memory that tensors let go for those that follow, where glibc manages it.

    By default glibc gives large blocks back to the system, which clears their pages when they are asked for again.
    """
    if any(name in os.environ for name in _MALLOC):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for setting, value in ((_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _LARGE), (_TOP_PAD, _STEP)):
            mallopt(setting, value)
