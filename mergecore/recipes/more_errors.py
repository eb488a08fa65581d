"""Find the other errors of an invalid recipe, so that all are reported at once. Nothing is read from the Hub."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from mergecore.api import Method
from mergecore.discovery import Registry, parse_level
from mergecore.documents import Place
from mergecore.errors import MergecoreError, RecipeError, joined, nearest
from mergecore.models import check_path, split_adapters
from mergecore.recipes.recipe import check_layers, is_recipe, json_schema


def with_more_errors(error: RecipeError, places: Sequence[Place], registry: Registry) -> RecipeError:
    """Return an error together with the other errors of the recipes.

    These are unknown methods, wrong parameters, models that do not exist, and wrong layers. They do not depend on each
    other, and are looked for in all parts of the documents that have the right structure.

    Args:
        error: what the recipe was refused for.
        places: the documents.
        registry: the plugins.
    """
    names = [place.value["name"] for place in places if _has(place, "name", str)]
    more = [item for place in places for item in _errors(place, names, registry) for item in item.errors]
    known = {(item.line, item.path) for item in error.errors}
    return joined([error, *(item for item in more if (item.line, item.path) not in known)])


def _errors(place: Place, names: Collection[str], registry: Registry) -> Iterator[RecipeError]:
    """Yield the errors of one recipe, and of the recipes nested in it."""
    if not isinstance(place.value, dict):
        return
    method: type[Method] | None = None
    if _has(place, "merge_method", str) and "prefer" not in place.value:
        try:
            method = registry.provide("methods", place.value["merge_method"])
        except MergecoreError as error:
            yield place.child("merge_method").error(str(error))
    parts = list(_parts(place))
    for part, of_model in parts:
        try:
            if _has(part, "layer_range", list):
                check_layers(part.child("layer_range"))
            if method is not None and _has(part, "parameters", dict):
                parse_level(method, part.child("parameters"), json_schema()["properties"], of_model)
        except RecipeError as error:
            yield error
    listed = [part.child(key) for key in ("model", "base_model") for part, _ in parts if key in part.value]
    seen: set[str] = set()
    for model in listed:
        if is_recipe(model):
            yield from _errors(model, names, registry)
        elif isinstance(model.value, str) and model.value not in seen:
            seen.add(model.value)
            yield from _missing(model, names)


def _has(place: Place, key: str, kind: type) -> bool:
    return isinstance(place.value, dict) and isinstance(place.value.get(key), kind)


def _parts(place: Place, of_model: bool = False) -> Iterator[tuple[Place, bool]]:
    """Yield every mapping of a recipe that can have parameters, and whether it is for one model."""
    yield place, of_model
    inner: list[tuple[Place, bool]] = []
    for key in ("models", "slices", "sources"):
        if _has(place, key, list):
            inner += [(item, key != "slices") for item in place.child(key).elements()]
    if _has(place, "modules", dict):
        inner += [(item, False) for _, item in place.child("modules").items()]
    for item, single in inner:
        if isinstance(item.value, dict):
            yield from _parts(item, single)


def _missing(place: Place, names: Collection[str]) -> Iterator[RecipeError]:
    """Yield an error if a model or one of its adapters does not exist."""
    base, adapters = split_adapters(place.value)
    for reference in (base, *adapters):
        try:
            if reference not in names:
                check_path(reference)
        except MergecoreError as error:
            text = str(error)
            yield place.error(text if "did you mean" in text else text + nearest(reference, names))
            return
