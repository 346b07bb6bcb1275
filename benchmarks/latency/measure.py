"""Times several models in turn in one process, and compares them round by round.

Needs numpy and ONNX Runtime only: the process with OpenVINO in it times with the same code.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH_DIMENSION = "N"
"""How the ONNX files name the size that every session fixes to the batch."""
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
    """How many times as fast as `baseline`: the median over rounds of baseline / times.

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
    """Milliseconds of each model in each round, float64 [rounds].

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


def session_options(batch: int, threads: int) -> Any:
    """Of every ONNX Runtime session here: default optimisations and spinning, and the batch's size fixed."""
    import onnxruntime  # noqa: PLC0415 - the tests of this file's arithmetic need none

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name(BATCH_DIMENSION, batch)
    return options


def onnxruntime_model(path: Path, images: NDArray[np.float32], threads: int) -> Callable[[], object]:
    """Runs the model once on `images`."""
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(str(path), session_options(len(images), threads))
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, feed)


class OthersCores:
    """How many cores other processes kept busy meanwhile, on average (Linux), a virtual machine's stolen time included.

    The load average cannot tell: this process raises it itself.
    """

    def __enter__(self) -> "OthersCores":
        self._start = time.perf_counter(), self._busy() - time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        seconds, busy = self._start
        self.mean = max(0.0, self._busy() - time.process_time() - busy) / (time.perf_counter() - seconds)

    @staticmethod
    def _busy() -> float:
        """Seconds that all cores together were busy since the machine started."""
        user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")
