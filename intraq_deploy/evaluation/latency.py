"""Latency, side by side: machines are noisy, so models run in turn, and times of one round are compared.

Needs numpy only: benchmarks use it in environments that have nothing else of ours.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_ROUNDS = 15
_WARM_UP = 3
# An idle ONNX Runtime session keeps its worker threads spinning for about 50 ms (measured, 1.32), on the cores that the
# next model needs.
_SPINNING_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of paired ratios and its 95 % interval."""

    value: float
    low: float
    high: float


def speed(times: NDArray[np.float64], baseline: NDArray[np.float64], *, samples: int = 4000, seed: int = 0) -> Ratio:
    """How many times as fast as the baseline a model is: the median over rounds of baseline / times.

    times, baseline: one time per round, float64 [rounds], of the same rounds. The interval is the percentile bootstrap
    over rounds. Raises ValueError if the rounds differ in number.
    """
    if times.shape != baseline.shape:
        raise ValueError(f"{len(times)} rounds are compared with {len(baseline)}: only rounds of one loop make pairs")
    ratios = baseline / times
    picks = np.random.default_rng(seed).integers(len(ratios), size=(samples, len(ratios)))
    low, high = np.quantile(np.median(ratios[picks], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))


def interleaved(
    models: Mapping[str, Callable[[], object]], rounds: int, seconds: float, threads: int, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Runs models in turn, and returns the milliseconds of each in each round: float64 [rounds], by name.

    Each round runs every model, in an order drawn anew: once untimed, so that its weights are in the caches and its
    threads awake as in steady use, and once timed. Ends after `rounds`, or after `seconds` but not before MIN_ROUNDS.
    """
    for run in models.values():
        for _ in range(_WARM_UP):
            run()
    names, generator = list(models), np.random.default_rng(seed)
    times: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= MIN_ROUNDS and time.perf_counter() - start > seconds:
            break
        for index in generator.permutation(len(names)):
            name = names[index]
            if threads > 1:
                time.sleep(_SPINNING_SECONDS)
            models[name]()
            begin = time.perf_counter()
            models[name]()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: np.array(values) for name, values in times.items()}


def medians(times: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """The median milliseconds of each model. times: float64 [rounds], by name."""
    return {name: float(np.median(values)) for name, values in times.items()}
