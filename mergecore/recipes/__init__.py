"""Recipes and lock files, parsed and checked against their schemas."""

from mergecore.recipes.composition import load_recipe, parse_stages, standalone
from mergecore.recipes.evaluations import load_evaluations, parse_evaluations
from mergecore.recipes.lockfile import LOCK_KEY, LOCK_NAME, LOCK_VERSION, Lock, read_lock
from mergecore.recipes.more_errors import with_more_errors
from mergecore.recipes.recipe import ModuleRecipe, Recipe, Slice, Source, json_schema, parse_recipe
from mergecore.recipes.recipe_schema import recipe_schema, schema_text

__all__ = [
    "LOCK_KEY",
    "LOCK_NAME",
    "LOCK_VERSION",
    "Lock",
    "ModuleRecipe",
    "Recipe",
    "Slice",
    "Source",
    "load_evaluations",
    "load_recipe",
    "parse_evaluations",
    "json_schema",
    "parse_recipe",
    "parse_stages",
    "read_lock",
    "recipe_schema",
    "schema_text",
    "standalone",
    "with_more_errors",
]
