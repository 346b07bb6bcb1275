"""The device on which images are made and students are trained: its choice, and what it multiplies in."""

import os

import torch

from intraq_deploy.errors import UsageError


def choose_device(name: str) -> torch.device:
    """Returns the device that "auto", "cpu" or "cuda" stands for.

    Raises UsageError for another name, and for cuda where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device is {name!r}: give auto, cpu or cuda.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device is cuda, but torch finds no CUDA device: use --device cpu, or mend the driver.")
    count, local = torch.cuda.device_count() if name == "cuda" else 0, os.environ.get("LOCAL_RANK")
    if name == "cpu" or local is None:
        return torch.device(name)
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > count:
        raise UsageError(
            f"{os.environ['LOCAL_WORLD_SIZE']} processes were started, and this machine has {count} CUDA devices: "
            f"start {count}, or use --device cpu."
        )
    return torch.device(name, int(local))


def has_bfloat16(device: torch.device) -> bool:
    """Returns whether the device has instructions that multiply in bfloat16: on other CPUs it is 16 to 30 times slower
    than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("bf16"))
