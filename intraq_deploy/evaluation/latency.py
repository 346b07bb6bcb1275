"""Latency, side by side: machines are noisy, so runs alternate and medians are compared."""

import statistics
import time
from collections.abc import Callable, Mapping


def paired_medians(runs: Mapping[str, Callable[[], object]], seconds: float = 2.0, warmup: int = 3) -> dict[str, float]:
    """Median milliseconds of each callable, called in turn until about `seconds` have passed, at least 10 rounds."""
    for _ in range(warmup):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    rounds = 0
    while rounds < 10 or time.perf_counter() - start < seconds:
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - begin))
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}
