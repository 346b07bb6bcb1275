"""Recipes as files: the built-in ones, a person's own, and what they say of one network."""

from intraq_deploy.recipes.files import BUILTIN, RecipeFile, builtin, builtin_text, check_recipe, parse, read
from intraq_deploy.recipes.recipe import Recipe

__all__ = ["BUILTIN", "Recipe", "RecipeFile", "builtin", "builtin_text", "check_recipe", "parse", "read"]
