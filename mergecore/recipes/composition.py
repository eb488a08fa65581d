"""Files with several recipes: find the main recipe, and the stages that other recipes use as models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergecore.discovery import Registry
from mergecore.documents import MAX_DEPTH, Place, load_documents, load_yaml
from mergecore.errors import RecipeError, raise_all
from mergecore.models import split_adapters
from mergecore.plain_values import plain, type_name
from mergecore.recipes.lockfile import read_lock
from mergecore.recipes.more_errors import with_more_errors
from mergecore.recipes.recipe import Recipe, is_recipe, parse_recipe

NAME = re.compile(r"\w[\w.-]*( [\w.-]+)*")
"""Valid names for recipes. A name becomes part of a folder name, and must not look like a path or reference."""


def load_recipe(
    source: Path | str | Mapping[str, Any] | Sequence[Mapping[str, Any]], registry: Registry | None = None
) -> Recipe:
    """Load the main recipe, which produces the output.

    Args:
        source: a YAML file, the lock file of an earlier run, a mapping with the same keys, or a list of such mappings.
        registry: the plugins, if the errors of an invalid recipe should include those that planning would find.

    Raises:
        RecipeError: if it cannot be read, or its structure is invalid.
    """
    if isinstance(source, str) and "\n" in source:
        raise RecipeError("the path of a recipe contains a line break; for YAML text, pass yaml.safe_load(text)")
    if isinstance(source, (str, Path)):
        if lock := read_lock(Path(source)):
            text = lock.value["recipe"]
            return replace(parse_stages(load_yaml(text, lock.recipe_file), text, lock.recipe_file), lock=lock)
        places, text = load_documents(Path(source))
        return _parsed(places, text, registry, str(source))
    if not isinstance(source, (Mapping, list, tuple)):
        kinds = "the path of a YAML file, a mapping, or a list of mappings"
        raise RecipeError(f"a recipe must be {kinds}, not {type_name(source)}")
    value = plain(source)
    places = [Place(value)] if isinstance(value, dict) else Place(value).elements()
    return _parsed(places, _dump(place.value for place in places), registry)


def _parsed(places: Sequence[Place], text: str, registry: Registry | None, file: str | None = None) -> Recipe:
    try:
        return parse_stages(places, text, file)
    except RecipeError as error:
        raise (with_more_errors(error, places, registry) if registry else error) from None


def parse_stages(places: Sequence[Place], text: str, file: str | None = None) -> Recipe:
    """Return the main recipe: the only one without a name, or else the last one. All others are its stages.

    Args:
        places: the YAML documents.
        text: the YAML text of all documents.
        file: the file that they are from.
    """
    if not places:
        subject = "the file " if file else "the list of recipes "
        raise RecipeError(f"{subject}is empty; a recipe needs at least 'merge_method' and 'models'", file=file)
    recipes = _Recipes()
    documents, errors = [], []
    for place in places:
        try:
            documents.append(parse_recipe(place, text))
        except RecipeError as error:
            errors.append(error)
    raise_all(errors)
    unnamed = [recipe for recipe in documents if recipe.name is None]
    if len(unnamed) > 1:
        raise unnamed[1].place.error("two recipes in this file have no name; add a 'name:' to all except the main one")
    output = unnamed[0] if unnamed else documents[-1]
    for recipe in documents:
        recipes.declare(recipe, output)
    return recipes.assembled(output)


class _Recipes:
    """The recipes in one file, by the names that refer to them in place of a model."""

    def __init__(self) -> None:
        self._parsed: dict[str, Recipe] = {}
        self._assembled: dict[str, Recipe] = {}

    def declare(self, recipe: Recipe, output: Recipe, label: str | None = None) -> None:
        """Register a recipe under its name or label, and all recipes nested in it."""
        if recipe.name is not None:
            _check_name(recipe, exists=recipe is not output)
        label = recipe.name or label
        other = self._parsed.get(label) if label is not None else None
        if other is not None and other.place.value != recipe.place.value:
            raise recipe.place.child("name").error(f"{label!r} is also the name of another recipe; rename one")
        if label is not None and recipe is not output:
            self._parsed[label] = recipe
        for reference, place in recipe.references():
            if nested := _nested(place):
                self.declare(parse_recipe(nested, recipe.text), output, split_adapters(reference)[0])

    def assembled(self, output: Recipe) -> Recipe:
        """Return the main recipe with its direct and indirect stages and all other recipes."""
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
                raise place.error(f"stages are nested too deeply (more than {MAX_DEPTH} levels)")
            name, _ = split_adapters(reference)
            if name in trail:
                circle = " from ".join(map(repr, (*trail[trail.index(name) :], name)))
                raise place.error(f"a recipe cannot be merged from itself: {circle}")
            if name in self._parsed and name not in stages:
                stages[name] = self._stage(name, trail)
        return replace(recipe, stages=stages)


def _nested(place: Place) -> Place | None:
    """Return the recipe nested in place of a model, if there is one."""
    while isinstance(place.value, Mapping) and not is_recipe(place):
        place = place.child("model" if "model" in place.value else next(iter(place.value)))
    return place if is_recipe(place) else None


def _check_name(recipe: Recipe, exists: bool) -> None:
    name, place = str(recipe.name), recipe.place.child("name")
    if not NAME.fullmatch(name):
        raise place.error(f"{name!r} is not a valid recipe name; use letters, digits, '_', '-', and '.'")
    if exists and Path(name).is_dir():
        raise place.error(f"{name!r} is ambiguous, because there is a folder with that name; choose another name")


def standalone(recipe: Recipe) -> Recipe:
    """Return a stage as a standalone recipe, whose text includes all named recipes that it uses."""
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
