"""The command `intraq-deploy recipes`: what the built-in recipes are. None of it imports torch."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli.command import Outcome, command

if TYPE_CHECKING:
    from intraq_deploy.recipes import RecipeFile

recipes = typer.Typer(
    help="The built-in recipes: how images are made and how the network is trained.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RecipeName = Annotated[str, typer.Argument(metavar="NAME", help="A built-in recipe.")]
_NETWORKS = ((32, 10), (224, 1000))
"""A small and a large network: pixels of a side, classes."""
_BUDGET = "    {side} x {side} pixels, {classes:,} classes: {images:,} images x {iterations:,} iterations, {trained}"


@recipes.command("list")
@command
def list_recipes() -> Outcome:
    """The names, what each is for, and its budget for a small and for a large network."""
    from intraq_deploy.recipes import BUILTIN, builtin

    files = [builtin(name) for name in BUILTIN]
    rows = [
        {"name": file.name, "description": file.description, "budgets": [_budget(file, *each) for each in _NETWORKS]}
        for file in files
    ]
    return Outcome(lambda: json.dumps(rows, indent=2), lambda: _show(files))


@recipes.command("show")
@command
def show_recipe(*, name: RecipeName) -> Outcome:
    """A recipe's file, to start from: intraq-deploy recipes show best > mine.toml."""
    from intraq_deploy.recipes import builtin, builtin_text

    return Outcome(lambda: json.dumps(builtin(name).values, indent=2), lambda: typer.echo(builtin_text(name), nl=False))


def _show(files: Iterable["RecipeFile"]) -> None:
    for file in files:
        typer.echo(f"{file.name}: {file.description}")
        for network in _NETWORKS:
            budget = _budget(file, *network)
            trained = "{steps:,} steps x {batch}".format(**budget) if budget["steps"] else "not trained"
            typer.echo(_BUDGET.format(**budget, trained=trained))


def _budget(file: "RecipeFile", side: int, classes: int) -> dict[str, int]:
    """Returns how much work a recipe is for one network. batch: images in a fine-tuning step."""
    given = file.sections((3, side, side), classes)
    synthesis, training = given["synthesis"], given["training"]
    return {
        "side": side, "classes": classes, "images": synthesis["images"], "iterations": synthesis["iterations"],
        "steps": training["steps"], "batch": training["batch"],
    }  # fmt: skip
