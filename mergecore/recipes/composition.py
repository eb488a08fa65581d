"""Several recipes in one file: which one makes the output, and which are stages that others are made from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergecore.documents import MAX_DEPTH, Place, load_documents, load_yaml
from mergecore.errors import RecipeError
from mergecore.models import split
from mergecore.recipes.lockfile import read_lock
from mergecore.recipes.recipe import Recipe, is_recipe, parse_recipe

NAME = re.compile(r"\w[\w.-]*( [\w.-]+)*")
"""What a recipe may be called: part of a folder's name, and no path, revision or adapter."""


def load_recipe(source: Path | str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Recipe:
    """The recipe that makes the output.

    Args:
        source: a YAML file, the lock of an earlier run, a mapping with the same keys, or a list of such mappings.

    Raises:
        RecipeError: it cannot be read, or its structure is wrong.
    """
    if isinstance(source, (str, Path)):
        if lock := read_lock(Path(source)):
            text = lock.value["recipe"]
            return replace(output_of(load_yaml(text, lock.recipe_file), text, lock.recipe_file), lock=lock)
        return output_of(*load_documents(Path(source)), str(source))
    places = [Place(source)] if isinstance(source, Mapping) else Place(list(source)).elements()
    return output_of(places, _dump(place.value for place in places))


def output_of(places: Sequence[Place], text: str, file: str | None = None) -> Recipe:
    """The recipe that makes the output: the only one without a name, else the last; all others are its stages.

    Args:
        places: the documents.
        text: the YAML of all of them.
        file: where they are from.
    """
    if not places:
        subject = "" if file else "the list of recipes "
        raise RecipeError(f"{subject}is empty; a recipe has at least 'merge_method' and 'models'", file=file)
    recipes = _Recipes()
    documents = [parse_recipe(place, text) for place in places]
    unnamed = [recipe for recipe in documents if recipe.name is None]
    if len(unnamed) > 1:
        raise unnamed[1].place.error(
            "two recipes of this file have no name; give each a 'name:' but the one that makes the output"
        )
    output = unnamed[0] if unnamed else documents[-1]
    for recipe in documents:
        recipes.declare(recipe, output)
    return recipes.assembled(output)


class _Recipes:
    """The recipes of one file, by what they are called where a model stands."""

    def __init__(self) -> None:
        self._parsed: dict[str, Recipe] = {}
        self._assembled: dict[str, Recipe] = {}

    def declare(self, recipe: Recipe, output: Recipe, label: str | None = None) -> None:
        """Note a recipe under its name or label, and those nested in it."""
        if recipe.name is not None:
            _check_name(recipe, exists=recipe is not output)
        label = recipe.name or label
        other = self._parsed.get(label) if label is not None else None
        if other is not None and other.place.value != recipe.place.value:
            raise recipe.place.child("name").error(f"{label!r} is the name of another recipe of this file; change one")
        if label is not None and recipe is not output:
            self._parsed[label] = recipe
        for reference, place in recipe.references():
            if nested := _nested(place):
                self.declare(parse_recipe(nested, recipe.text), output, split(reference)[0])

    def assembled(self, output: Recipe) -> Recipe:
        """The output's recipe with its stages, theirs, and all others."""
        if output.name is not None:
            self._parsed.setdefault(output.name, output)
        others = {name: self._stage(name, ()) for name, recipe in self._parsed.items() if recipe.name}
        made = self._with_stages(output, (output.name,) if output.name else ())
        return replace(made, others={name: other for name, other in others.items() if name != output.name})

    def _stage(self, label: str, trail: tuple[str, ...]) -> Recipe:
        if label not in self._assembled:
            recipe = self._with_stages(self._parsed[label], (*trail, label))
            self._assembled[label] = recipe
        return self._assembled[label]

    def _with_stages(self, recipe: Recipe, trail: tuple[str, ...]) -> Recipe:
        stages: dict[str, Recipe] = {}
        for reference, place in recipe.references():
            if len(trail) > MAX_DEPTH:
                raise place.error(f"the recipes are made from each other over more than {MAX_DEPTH} steps")
            name, _ = split(reference)
            if name in trail:
                circle = " from ".join(map(repr, (*trail[trail.index(name) :], name)))
                raise place.error(f"a recipe cannot be made from itself: {circle}")
            if name in self._parsed and name not in stages:
                stages[name] = self._stage(name, trail)
        return replace(recipe, stages=stages)


def _nested(place: Place) -> Place | None:
    """The recipe that stands at the place of a model, if one does."""
    while isinstance(place.value, Mapping) and not is_recipe(place):
        place = place.child("model" if "model" in place.value else next(iter(place.value)))
    return place if is_recipe(place) else None


def _check_name(recipe: Recipe, exists: bool) -> None:
    name, place = str(recipe.name), recipe.place.child("name")
    if not NAME.fullmatch(name):
        raise place.error(f"{name!r} is no name for a recipe; use letters, digits, '_', '-' and '.'")
    if exists and Path(name).is_dir():
        raise place.error(f"{name!r} is a folder here too, so it is not clear which is meant; choose another name")


def alone(recipe: Recipe) -> Recipe:
    """A stage with a text that makes it alone: its own YAML, after all named recipes that it is made from."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(item: Recipe) -> None:
        for stage in item.stages.values():
            if id(stage) not in seen:
                seen.add(id(stage))
                visit(stage)
                if stage.name is not None:
                    found[stage.name] = stage.place.value

    visit(recipe)
    return replace(recipe, text=_dump([*found.values(), recipe.place.value]))


def _dump(values: Iterable[Any]) -> str:
    import yaml

    return str(yaml.safe_dump_all(json.loads(json.dumps(list(values))), sort_keys=False))
