"""The choice of the device on which images are made and students are trained."""

import torch

from intraq_deploy.errors import UsageError


def choose_device(name: str) -> torch.device:
    """Returns the device that "auto", "cpu" or "cuda" stands for.

    Raises UsageError for another name, and for cuda where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device is {name!r}: give auto, cpu or cuda.")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device is cuda, but torch finds no CUDA device: use --device cpu, or mend the driver.")
    return torch.device(name)
