"""Pieces of sentences that the messages of all rooms share."""

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

MIB = 1 << 20
"""Bytes of a MiB."""
_LENGTH, _MOST_NAMES = 60, 12


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """The end of a sentence about an unknown name: "the nearest: a, b", "known are a, b", or "none of its 900 is like
    it"."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return f"the nearest: {', '.join(close)}"
    return f"known are {', '.join(names)}" if len(names) <= _MOST_NAMES else f"none of its {len(names):,} is like it"


def did_you_mean(name: str, known: Sequence[str], *, prefix: str = "", otherwise: str = "known are") -> str:
    """The end of a sentence about an unknown name, with its stop: "did you mean a or b?" for names that have all its
    words, "did you mean a?" for a name like it, or "known are a, b."."""
    words = set(name.split("-"))
    near = [each for each in known if words <= set(each.split("-"))] or difflib.get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{listing(near, 'or')}?" if near else f"{otherwise} {', '.join(known)}."


def listing(words: Sequence[str], joint: str = "and") -> str:
    """The words as one phrase: "a", "a and b", "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} {joint} {last}" if first else last


def shown(value: Any) -> str:
    """The value as it is written in a file, shortened to 60 characters."""
    text = repr(value) if isinstance(value, float) else json.dumps(value, default=str)
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."


def reason(error: BaseException, *, length: int = 160) -> str:
    """The type and message of an exception on one line, shortened to `length` characters."""
    text = " ".join(str(error).split())
    message = text if len(text) <= length else f"{text[:length]}..."
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def duration(seconds: float) -> str:
    """The time as a person says it: "42 s", "12 min", "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
