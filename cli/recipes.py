"""intraq-deploy recipes: what the built-in recipes are. None of it imports torch."""

import json as to_json
from typing import TYPE_CHECKING, Annotated

import typer

from intraq_deploy.cli import options as o
from intraq_deploy.cli.errors import reports_errors

if TYPE_CHECKING:
    from intraq_deploy.recipes import RecipeFile

recipes = typer.Typer(
    help="The built-in recipes: how images are made and how the network is trained.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RecipeName = Annotated[str, typer.Argument(metavar="NAME", help="A built-in recipe.", show_default=False)]
_NETWORKS = ((32, 10), (224, 1000))
"""A small and a large one: pixels of a side, classes."""
_BUDGET = (
    "    {side} x {side} pixels, {classes:,} classes: {images:,} images x {iterations:,} iterations, "
    "{steps:,} steps x {batch}"
)


@recipes.command("list")
@reports_errors
def list_recipes(json: o.Json = False, debug: o.Debug = False) -> None:
    """The names, what each is for, and its budget for a small and for a large network."""
    from intraq_deploy.recipes import BUILTIN, builtin

    known = [builtin(name) for name in BUILTIN]
    if json:
        rows = [
            {
                "name": file.name,
                "description": file.description,
                "budgets": [_budget(file, *network) for network in _NETWORKS],
            }
            for file in known
        ]
        typer.echo(to_json.dumps(rows, indent=2))
        return
    for file in known:
        typer.echo(f"{file.name}: {file.description}")
        for network in _NETWORKS:
            typer.echo(_BUDGET.format(**_budget(file, *network)))


@recipes.command("show")
@reports_errors
def show_recipe(name: RecipeName, json: o.Json = False, debug: o.Debug = False) -> None:
    """A recipe's file, to start from: intraq-deploy recipes show best > mine.toml."""
    from intraq_deploy.recipes import builtin, builtin_text

    if json:
        typer.echo(to_json.dumps(builtin(name).values, indent=2))
    else:
        typer.echo(builtin_text(name), nl=False)


def _budget(file: "RecipeFile", side: int, classes: int) -> dict[str, int]:
    """How much work a recipe is, for one network. batch: of a fine-tuning step."""
    given = file.sections((3, side, side), classes)
    synthesis, training = given["synthesis"], given["training"]
    return {
        "side": side, "classes": classes, "images": synthesis["images"], "iterations": synthesis["iterations"],
        "steps": training["steps"], "batch": training["batch"],
    }  # fmt: skip
