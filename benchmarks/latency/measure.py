"""Times several models in turn in one process, and compares them round by round.

Needs numpy, ONNX Runtime and this repository only: the process with OpenVINO in it times with the same code.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[2]))  # where this package is not installed

from intraq_deploy.evaluation.latency import MIN_ROUNDS, Ratio, interleaved, speed

__all__ = ["MIN_ROUNDS", "OthersCores", "Ratio", "interleaved", "onnxruntime_model", "session_options", "speed"]

BATCH_DIMENSION = "N"
"""How the ONNX files name the size that every session fixes to the batch."""


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
