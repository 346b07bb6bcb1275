"""The sections of a recipe: which keys each has, which values a key may have, and what the section becomes.

Values are taken as they are written: "5" is no number, 1 is not true, 2.0 is no whole number. A whole number is a
number.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from intraq_deploy.quantization.recipe import QuantizationRecipe
from intraq_deploy.synthesis.recipe import SynthesisRecipe
from intraq_deploy.training.recipe import FittingRecipe, ReconstructionRecipe, TrainingRecipe
from intraq_deploy.wording import shown

KINDS: dict[str, type[Any]] = {
    "synthesis": SynthesisRecipe, "quantization": QuantizationRecipe, "fitting": FittingRecipe,
    "training": TrainingRecipe, "reconstruction": ReconstructionRecipe,
}  # fmt: skip
"""The dataclass that each section becomes; its fields are the section's keys."""
_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "greater_than_equal": "at least {ge:,.9g}",
    "greater_than": "more than {gt:,.9g}",
    "less_than_equal": "at most {le:,.9g}",
    "less_than": "less than {lt:,.9g}",
    "literal_error": "{expected}",
}
"""The values to give instead, by pydantic's name of the fault."""


class BadValue(ValueError):  # noqa: N818  what it says is the end of a sentence
    """A value that its key cannot have: `where` in it ("[1]" in a list), what it is and what it should be."""


def keys(section: str) -> tuple[str, ...]:
    """The keys that a section may have."""
    return tuple(field.name for field in fields(KINDS[section]))


def value_of(section: str, key: str, value: Any) -> Any:
    """The value as the section's dataclass has it. Raises BadValue, as "synthesis.images = 1: give at least 2"."""
    try:
        return _adapters(section)[key].validate_python(tuple(value) if isinstance(value, list) else value)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{index}]" for index in first["loc"])
        raise BadValue(f"{section}.{key}{place} = {shown(first['input'])}: give {_wanted(first)}") from error


def missing(section: str, given: Mapping[str, Any]) -> list[str]:
    """The keys that have no default and are not given."""
    return [
        f"{section}.{field.name}"
        for field in fields(KINDS[section])
        if field.name not in given and field.default is MISSING
    ]


def make(section: str, values: Mapping[str, Any]) -> Any:
    """Makes the section's dataclass from its values. Raises BadValue for the first that its key cannot have."""
    return KINDS[section](**{key: value_of(section, key, value) for key, value in values.items()})


def _wanted(error: ErrorDetails) -> str:
    if error["type"] not in _WANTED:
        return f"another value ({error['msg']})"
    return _WANTED[error["type"]].format(**error.get("ctx", {}))


@cache
def _adapters(section: str) -> dict[str, TypeAdapter[Any]]:
    kind = KINDS[section]
    config = ConfigDict(strict=True, allow_inf_nan=False)
    hints = get_type_hints(kind, include_extras=True)
    return {key: TypeAdapter(hints[key], config=config) for key in keys(section)}
