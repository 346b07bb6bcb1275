"""Timing one batch, and a Jetson's power meanwhile."""

import threading
import time
from typing import Callable, Dict, List, NamedTuple, Optional

from .arrays import np
from .machine import watts

SAMPLED = 2.0
"""Seconds for which power is sampled at least."""
LEAST_SAMPLES = 5
"""The fewest samples of power that give a mean."""


class Measured(NamedTuple):
    """The time and the power that one batch takes."""

    runs: int
    median: float
    """Milliseconds, as in the percentiles."""
    p90: Optional[float]
    p99: Optional[float]
    """A percentile is None where it is not known."""
    watts: Dict[str, float]
    """Watts by rail; empty without sensors, and from too few samples."""
    power_samples: int


def measured(work: Callable[[], object], runs: int) -> Measured:
    """Times `runs` runs one by one while power is sampled; where that took too short for power, it goes on untimed."""
    for _ in range(max(3, runs // 10)):
        work()
    times = []
    with Power() as power:
        for _ in range(runs):
            start = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - start))
        while power.wants_more():
            work()
    median, p90, p99 = (float(np.percentile(times, percent)) for percent in (50, 90, 99))
    return Measured(runs, median, p90, p99, power.mean(), len(power.samples))


class Power:
    """Samples the rails of a Jetson's INA3221 sensors ten times a second while something runs.

    The first sample is a tenth of a second behind the start, because what the sensors saw before is not the work's.
    """

    def __init__(self) -> None:
        self.samples: List[Dict[str, float]] = []
        self._rails = watts().keys()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Power":
        self._start = time.perf_counter()
        if self._rails:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._rails:
            self._thread.join()

    def wants_more(self) -> bool:
        """Whether power has been sampled for too short a time; never without sensors."""
        return bool(self._rails) and time.perf_counter() - self._start < SAMPLED

    def mean(self) -> Dict[str, float]:
        """Mean watts by rail; empty without sensors, and from too few samples."""
        if len(self.samples) < LEAST_SAMPLES:
            return {}
        return {
            name: round(sum(sample[name] for sample in self.samples) / len(self.samples), 3) for name in self._rails
        }

    def _sample(self) -> None:
        while not self._over.wait(0.1):
            sample = watts()
            # Reading takes a while: the work can be over by then, or a rail not have answered.
            if sample.keys() == self._rails and not self._over.is_set():
                self.samples.append(sample)
