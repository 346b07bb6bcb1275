"""Randomness by name: every batch and step has a generator of its own, so that resuming changes nothing."""

import hashlib

import torch


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one named use of `seed`."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator for one named use of `seed`: the same on every device and at any number of processes."""
    return torch.Generator().manual_seed(derive(seed, *path))
