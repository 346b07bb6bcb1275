"""Machines that other processes keep busy. Imports no torch: how threads wait is settled before it is loaded."""

import os

_BUSY = 0.75
"""The load of each core from which on a machine is called busy."""
_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""The environment variables by which a person says how threads wait."""


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
