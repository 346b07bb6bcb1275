"""The table that a run's targets stand in: its rows, and the names of the baselines."""

from pydantic import BaseModel, ConfigDict

FLOAT32, W8A8, A8 = "float32", "w8a8", "a8"
"""W8A8: our own, ranges only. A8: the run's weight bits with 8-bit activations, ranges only, for runs with fewer."""
CUDA_FLOAT32, CUDA_FLOAT16 = "cuda-float32", "cuda-float16"
"""The float network on ONNX Runtime's CUDA provider, where that loads."""


class ComparisonRow(BaseModel):
    """One deployed network: a target of the run, or a baseline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    top1: float | None
    top5: float | None
    """Percent of the labelled images; both are None where there are none."""
    bytes: int
    milliseconds: float | None
    """Median at batch 1 on one thread, all rows timed in turn; None where the runtime is on the device only. For a row
    that runs on a GPU, copies to it and back are included."""
    note: str | None = None
    """A restriction that has to be known of the row."""
