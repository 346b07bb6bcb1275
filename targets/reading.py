"""TOML files of targets and devices, read and checked: a fault is reported in one sentence."""

import tomllib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from intraq_deploy.errors import UsageError
from intraq_deploy.wording import did_you_mean, shown

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=60)]
"""The name of a target or device, which is also the name of its folder."""
Version = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)+$")]
"""A version or a compute capability: numbers with dots."""

M = TypeVar("M", bound=BaseModel)


def read(kind: str, name: str, text: str, model: type[M]) -> M:
    """A file's text as a `model`. kind, name: for messages, as "target" and "mine.toml".

    Raises UsageError for text that is no TOML, for a key that `model` does not have, and for a value that its key
    cannot have.
    """
    values = parse(kind, name, text)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"The {kind} {name} {_wrong(error.errors()[0], model)}") from error


def parse(kind: str, name: str, text: str) -> dict[str, Any]:
    """A file's text as plain values. Raises UsageError for text that is no TOML."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; Python has limits of its own
        raise UsageError(
            f"The {kind} {name} is not TOML ({error}): `intraq-deploy targets NAME` lists what a built-in one says."
        ) from error


def _wrong(error: ErrorDetails, model: type[BaseModel]) -> str:
    """The end of a sentence for one of pydantic's errors."""
    where, kind = error["loc"], error["type"]
    key = ".".join(str(part) for part in where)
    if kind == "extra_forbidden":
        # Keys in [[releases]] are those of another model.
        known = [*model.model_fields] if len(where) == 1 else []
        return f"has the unknown key {key}: {did_you_mean(key, known) if known else 'leave it out.'}"
    if kind == "missing":
        return f"has no {key}: add it."
    if kind == "string_pattern_mismatch":
        wanted = (
            "give small letters, digits, dots and dashes" if key == "name" else 'give numbers with dots, as in "10.3"'
        )
        return f"has {key} = {shown(error['input'])}: {wanted}."
    return f"has {key} = {shown(error['input'])}: {error['msg'].removeprefix('Value error, ').lower()}."
