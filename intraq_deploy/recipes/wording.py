"""Pieces of sentences that messages share."""

import json
from typing import Any

_LENGTH = 60


def shown(value: Any) -> str:
    """A value as it is written in a file, shortened."""
    text = repr(value) if isinstance(value, float) else json.dumps(value, default=str)
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."
