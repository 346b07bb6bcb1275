"""TOML files of targets and devices, read and checked: what is wrong with one is said in a sentence."""

import tomllib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from intraq_deploy.errors import UsageError
from intraq_deploy.wording import did_you_mean, shown

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=60)]
"""Of a target or device: also a folder's."""
Version = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)+$")]
"""Also a compute capability."""

M = TypeVar("M", bound=BaseModel)


def read(kind: str, name: str, text: str, model: type[M]) -> M:
    """A file's text as a `model`. kind, name: for messages, "target" and "mine.toml".

    Raises UsageError for what is no TOML, for the first key that `model` has not, and for the first value that its key
    cannot have.
    """
    values = parse(kind, name, text)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"The {kind} {name} {_wrong(error.errors()[0], model)}") from error


def parse(kind: str, name: str, text: str) -> dict[str, Any]:
    """A file's text as plain values. Raises UsageError for what is no TOML."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; Python has limits of its own
        raise UsageError(
            f"The {kind} {name} is not TOML ({error}): `intraq-deploy targets NAME` lists what a built-in one says."
        ) from error


def _wrong(error: ErrorDetails, model: type[BaseModel]) -> str:
    """One of pydantic's errors, as the end of a sentence."""
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
