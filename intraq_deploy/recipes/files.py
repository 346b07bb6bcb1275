"""Recipes as TOML.

    description = "one line"
    extends = "standard"            # optional: a built-in recipe, whose values hold where this file has none

    [synthesis]                     # fields of SynthesisRecipe
    [quantization]                  # fields of QuantizationRecipe
    [fitting]                       # fields of FittingRecipe
    [training]                      # fields of TrainingRecipe
    [reconstruction]                # fields of ReconstructionRecipe; nothing is reconstructed without enabled = true

    [[when]]                        # for some networks only; later ones win over earlier ones
    pixels_at_most = 4096           # height x width of the network's images
    classes_at_most = 30
    synthesis.images = 1024

Nothing is guessed: a key that no recipe has, or a value that its key cannot have, is refused, in a `when` too that is
not for the network at hand.

What sections hold is imported late: it comes with torch, and the built-in files can be shown without.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from intraq_deploy.errors import UsageError
from intraq_deploy.recipes.recipe import Recipe
from intraq_deploy.wording import did_you_mean, shown

BUILTIN = ("quick", "standard", "best", "paper")
SECTIONS = ("synthesis", "quantization", "fitting", "training", "reconstruction")
_CONDITIONS = ("pixels_at_most", "classes_at_most")
_TOP = ("description", "extends", "when", *SECTIONS)

Sections = dict[str, dict[str, Any]]
"""The values of a recipe as they are written, by section and key."""


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe as it was written, checked; `resolve` makes it one for a single network."""

    name: str
    values: Mapping[str, Any]
    """The file's content as plain values."""

    @property
    def description(self) -> str:
        return str(self.values.get("description", ""))

    def resolve(self, input_shape: tuple[int, int, int], classes: int) -> Recipe:
        """Makes the recipe for images [C, H, W] and so many classes. Raises UsageError for a value not given."""
        from intraq_deploy.recipes import sections  # noqa: PLC0415

        given = self.sections(input_shape, classes)
        absent = [key for name in SECTIONS for key in sections.missing(name, given[name])]
        if absent:
            raise UsageError(
                f"The recipe {self.name} has no {', '.join(absent)}: add what is missing, or the line "
                'extends = "quick" at its top.'
            )
        return Recipe(**{name: sections.make(name, given[name]) for name in SECTIONS})

    def sections(self, input_shape: tuple[int, int, int], classes: int) -> Sections:
        """The values for images [C, H, W] and so many classes, those of the recipe that this one extends included."""
        merged: Sections = {name: {} for name in SECTIONS}
        if "extends" in self.values:
            merged = builtin(self.values["extends"]).sections(input_shape, classes)
        sizes = {"pixels_at_most": input_shape[1] * input_shape[2], "classes_at_most": classes}
        for part in (self.values, *self.values.get("when", ())):
            if all(size <= part.get(condition, size) for condition, size in sizes.items()):
                for name in SECTIONS:
                    merged[name] |= part.get(name, {})
        return merged


def builtin(name: str) -> RecipeFile:
    """The built-in recipe `name`. Raises UsageError for an unknown one."""
    return RecipeFile(name, tomllib.loads(builtin_text(name)))


def builtin_text(name: str) -> str:
    """The file of a built-in recipe. Raises UsageError for an unknown one."""
    if name not in BUILTIN:
        raise UsageError(f"The recipe {name!r} is unknown: {_choice(name)}")
    return (files("intraq_deploy.recipes") / f"{name}.toml").read_text(encoding="utf-8")


def read(path: Path) -> RecipeFile:
    """Reads a person's own recipe. Raises UsageError for a file that cannot be read or is no recipe."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        remedy = f"the built-in one is --preset {path}" if str(path) in BUILTIN else "give a TOML file"
        raise UsageError(f"The recipe {path} cannot be read ({reason}): {remedy}.") from error
    return parse(str(path), text)


def parse(name: str, text: str) -> RecipeFile:
    """Reads a recipe from its text. Raises UsageError for a text that is no recipe."""
    try:
        return check_recipe(name, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"The recipe {name} is not TOML ({error}): `intraq-deploy recipes show quick` prints one that is."
        ) from error
    except (ValueError, RecursionError) as error:  # Python's own limits
        what = "a number of thousands of digits" if isinstance(error, ValueError) else "hundreds of groups in groups"
        raise UsageError(f"The recipe {name} has {what}, and cannot be read: leave that out.") from error


def check_recipe(name: str, values: Mapping[str, Any]) -> RecipeFile:
    """Checks a recipe's plain values. Raises UsageError for the first key or value that no recipe has."""
    _check_keys(f"The recipe {name}", values, _TOP)
    for key in ("description", "extends"):
        if not isinstance(values.get(key, ""), str):
            raise UsageError(f"The recipe {name} has {key} = {shown(values[key])}: give text in quotes.")
    if values.get("extends", BUILTIN[0]) not in BUILTIN:
        extends = values["extends"]
        raise UsageError(f"The recipe {name} extends {extends!r}, which is not built in: {_choice(extends)}")
    parts = values.get("when", [])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise UsageError(f"The recipe {name} has `when` as a single group or value: write [[when]] above each group.")
    _check_sections(f"The recipe {name}", values)
    for number, part in enumerate(parts, 1):
        where = f"The recipe {name}, in [[when]] number {number},"
        _check_keys(where, part, (*_CONDITIONS, *SECTIONS))
        _check_conditions(where, part)
        _check_sections(where, part)
    return RecipeFile(name, values)


def _check_conditions(where: str, part: Mapping[str, Any]) -> None:
    given = {condition: part[condition] for condition in _CONDITIONS if condition in part}
    if not given:
        raise UsageError(f"{where} has no condition: add {' or '.join(_CONDITIONS)}, or write its values above.")
    for condition, value in given.items():
        if type(value) is not int or value < 1:
            raise UsageError(f"{where} has {condition} = {shown(value)}: give a whole number from 1 on.")


def _check_sections(where: str, part: Mapping[str, Any]) -> None:
    from intraq_deploy.recipes import sections  # noqa: PLC0415

    for section in SECTIONS:
        values = part.get(section, {})
        if not isinstance(values, dict):
            raise UsageError(f"{where} has {section} = {shown(values)}: write [{section}] above its keys.")
        _check_keys(where, values, sections.keys(section), f"{section}.")
        for key, value in values.items():
            try:
                sections.value_of(section, key, value)
            except sections.BadValue as bad:
                raise UsageError(f"{where} has {bad}.") from bad


def _check_keys(where: str, values: Mapping[str, Any], known: tuple[str, ...], prefix: str = "") -> None:
    for key in values:
        if key not in known:
            raise UsageError(f"{where} has the unknown key {prefix}{key}: {_nearest_key(key, known, prefix)}")


def _nearest_key(key: str, known: tuple[str, ...], prefix: str) -> str:
    from intraq_deploy.recipes import sections  # noqa: PLC0415

    homes = [f"[{section}]" for section in SECTIONS if key in sections.keys(section)]
    if homes:
        return f"it belongs under {' or '.join(homes)}."
    return did_you_mean(key, known, prefix=prefix)


def _choice(name: str) -> str:
    return did_you_mean(name, BUILTIN, otherwise="choose one of")
