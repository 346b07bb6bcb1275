"""Errors for a person, and what every module uses."""

import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Optional

INPUT, OUTPUT = "image", "logits"
"""Names of the network's input and output in every model and engine."""
LARGEST_BATCH = 8
"""The largest batch that an engine takes."""


class Problem(Exception):
    """One sentence for a person: what was found, and what to do. `doctor` shows them apart."""

    def __init__(self, found: str, remedy: Optional[str] = None) -> None:
        super().__init__(found if remedy is None else f"{found}: {remedy}.")
        self.found, self.remedy = found, remedy


class Absent(Problem):
    """A program or a runtime is not installed: no surprise on most machines."""


def one_line(error: BaseException) -> str:
    """An error's message in one line, at most 300 characters, without its full stop."""
    return " ".join(str(error).split())[:300].rstrip(".")


def say(sentence: str) -> None:
    """Prints to standard error, since standard output is for the result."""
    print(sentence, file=sys.stderr)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file beside its place and renames it, so that it is whole or not there."""
    handle, name = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
