"""Runs ONNX models in a Python that has numpy and onnxruntime only: python run_models.py FOLDER...

Each folder holds images.npy, shipped.onnx and instrumented.onnx. Written beside them: shipped.npy (logits), found.npz
(every output of the instrumented model by name) and optimized.onnx (the shipped model as the runtime executes it).
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime


def session(path: Path, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """On one thread: a second one only waits, under emulation too."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    if optimized is not None:
        settings.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def run(folder: Path) -> None:
    """One folder."""
    images = np.load(folder / "images.npy")
    shipped = session(folder / "shipped.onnx", folder / "optimized.onnx")
    (logits,) = shipped.run(None, {shipped.get_inputs()[0].name: images})
    np.save(folder / "shipped.npy", logits)
    instrumented = session(folder / "instrumented.onnx")
    names = [output.name for output in instrumented.get_outputs()]
    found = instrumented.run(names, {instrumented.get_inputs()[0].name: images})
    np.savez(folder / "found.npz", **dict(zip(names, found, strict=True)))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        run(Path(argument))
