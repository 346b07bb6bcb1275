"""The names of the classes, from a file or a list."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intraq_deploy.errors import DataError

FORMS = "one name per line, a JSON list of names, or a JSON object from index to name"


def read_class_names(classes: Path | Sequence[str], count: int) -> tuple[str, ...]:
    """Reads the class names in the order of the logits.

    classes: the names themselves; or a text file with one name per line; or a JSON file with a list of names,
        an object {"0": "cat", ...} or an object {"cat": 0, ...}.
    Raises DataError if the file cannot be read, or their number is not `count`.
    """
    if isinstance(classes, (str, Path)):
        path = Path(classes)
        names, place = _from_text(path, _read(path)), str(path)
    else:
        names, place = [str(name) for name in classes], "the list of class names"

    if len(names) != count:
        raise DataError(
            f"{place} has {len(names)} class names, and the network has {count} classes; give {count} names "
            "in the order of its outputs."
        )
    return tuple(names)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"the class names in {path} cannot be read: {error.strerror}; give {FORMS}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the class names in {path} are no UTF-8 text; give {FORMS}.") from error


def _from_text(path: Path, text: str) -> list[str]:
    if path.suffix == ".json" or text.lstrip()[:1] in ("[", "{"):
        return _from_json(path, text)
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "" in lines:
        raise DataError(f"line {lines.index('') + 1} of {path} is empty, and every class needs a name; give {FORMS}.")
    return lines


def _from_json(path: Path, text: str) -> list[str]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no valid JSON (line {error.lineno}: {error.msg}); give {FORMS}.") from error

    names = _in_order(content) if isinstance(content, Mapping) else content
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path} holds neither names nor an object whose indices run from 0; give {FORMS}.")
    return names


def _in_order(content: Mapping[str, Any]) -> list[Any] | None:
    """The names by index; None if the indices are not 0, 1, 2, ..."""
    by_index = {str(key): value for key, value in content.items()}
    if all(isinstance(value, int) for value in content.values()):
        by_index = {str(value): key for key, value in content.items()}
    order = [str(index) for index in range(len(content))]
    return [by_index[index] for index in order] if set(order) == by_index.keys() else None
