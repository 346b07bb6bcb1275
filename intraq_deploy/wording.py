"""Pieces of sentences that the messages of all rooms share."""

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

_LENGTH = 60


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """The end of a sentence about an unknown name: "the nearest: a, b", or "known are a, b, c, ..."."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return f"the nearest: {', '.join(close)}"
    shown = names[:8]
    return f"known are {', '.join(shown)}{', ...' if len(names) > len(shown) else ''}"


def did_you_mean(name: str, known: Sequence[str], *, prefix: str = "", otherwise: str = "known are") -> str:
    """The end of a sentence about an unknown name, with its stop: "did you mean a?", or "known are a, b."."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"{otherwise} {', '.join(known)}."


def listing(words: Sequence[str]) -> str:
    """The words as one phrase: "a", "a and b", "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def shown(value: Any) -> str:
    """The value as it is written in a file, shortened to 60 characters."""
    text = repr(value) if isinstance(value, float) else json.dumps(value, default=str)
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."


def reason(error: BaseException, *, length: int = 160) -> str:
    """The type and message of an exception on one line, shortened to `length` characters."""
    text = " ".join(str(error).split())
    message = text if len(text) <= length else f"{text[:length]}..."
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
