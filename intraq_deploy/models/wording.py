"""Pieces of sentences that messages share."""

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """Returns: the end of a sentence: "the nearest: a, b", or "known are a, b, c, ..."."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return f"the nearest: {', '.join(close)}"
    shown = names[:8]
    return f"known are {', '.join(shown)}{', ...' if len(names) > len(shown) else ''}"


def listing(words: Sequence[str]) -> str:
    """Returns: "a", "a and b", "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def reason(error: BaseException, *, length: int = 160) -> str:
    """Returns: an exception's type and message on one line, shortened."""
    text = " ".join(str(error).split())
    shown = text if len(text) <= length else f"{text[:length]}..."
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
