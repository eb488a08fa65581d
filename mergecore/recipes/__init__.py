"""Recipes and lock files, parsed and checked against their schemas."""

from mergecore.recipes.composition import alone, load_recipe
from mergecore.recipes.evaluations import parse_evaluations
from mergecore.recipes.lockfile import KEY, NAME, Lock
from mergecore.recipes.recipe import ModuleRecipe, Recipe, Slice, Source, parse_recipe
from mergecore.recipes.recipe_schema import as_text, recipe_schema

__all__ = [
    "KEY",
    "Lock",
    "ModuleRecipe",
    "NAME",
    "Recipe",
    "Slice",
    "Source",
    "alone",
    "as_text",
    "load_recipe",
    "parse_evaluations",
    "parse_recipe",
    "recipe_schema",
]
