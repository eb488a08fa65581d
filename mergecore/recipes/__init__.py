"""Recipes and lock files, parsed and checked against their schemas."""

from mergecore.recipes.composition import load_recipe, standalone
from mergecore.recipes.evaluations import parse_evaluations
from mergecore.recipes.lockfile import LOCK_KEY, LOCK_NAME, Lock
from mergecore.recipes.recipe import ModuleRecipe, Recipe, Slice, Source, parse_recipe
from mergecore.recipes.recipe_schema import recipe_schema, schema_text

__all__ = [
    "LOCK_KEY",
    "Lock",
    "ModuleRecipe",
    "LOCK_NAME",
    "Recipe",
    "Slice",
    "Source",
    "standalone",
    "schema_text",
    "load_recipe",
    "parse_evaluations",
    "parse_recipe",
    "recipe_schema",
]
