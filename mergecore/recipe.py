"""Recipes: YAML in, `Recipe` out, every mistake with its file, line and path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mergecore.api.files import TORCH_NAMES
from mergecore.documents import Place, check, load_file, load_yaml, show
from mergecore.errors import RecipeError
from mergecore.lockfile import Lock, read_lock


@dataclass(frozen=True)
class Source:
    """One input of a slice: a model, its layers [start, end) (None: all of them), and its own parameters."""

    model: str
    layer_range: tuple[int, int] | None
    parameters: Place | None
    place: Place


@dataclass(frozen=True)
class Slice:
    """A run of output layers and the sources that are merged into it."""

    sources: tuple[Source, ...]
    base_model: str | None
    parameters: Place | None
    place: Place


@dataclass(frozen=True)
class ModuleRecipe:
    """What one module of the architecture is made of; `whole` when it came from `models`."""

    slices: tuple[Slice, ...]
    parameters: Place | None
    whole: bool
    place: Place


@dataclass(frozen=True)
class Recipe:
    """A recipe whose structure is right; names, layers and parameters are the plan's to check.

    Attributes:
        method: name of the merge method.
        modules: by module name; None stands for every module of the architecture.
        base_model, parameters: of the top level.
        dtype: of the output, by safetensors name; None: what the inputs have.
        seed: of all random numbers.
        tokenizer: where the output's vocabulary comes from; None: the models share one.
        chat_template: as written; None: the tokenizer keeps its own.
        architectures: definition files, each with where the recipe names it.
        evaluate: what to measure of the result, if anything.
        text: the YAML.
        place: the whole document.
        lock: where the recipe was taken from a lock, which says what it was run on.
    """

    method: str
    modules: Mapping[str | None, ModuleRecipe]
    base_model: str | None
    parameters: Place | None
    dtype: str | None
    seed: int
    tokenizer: Mapping[str, Any] | None
    chat_template: str | None
    architectures: tuple[tuple[Path, Place], ...]
    evaluate: Place | None
    text: str
    place: Place
    lock: Lock | None = None

    @property
    def models(self) -> list[str]:
        """Every model reference in the recipe's order, the base model last unless it is an input too."""
        slices = [item for module in self.modules.values() for item in module.slices]
        names = [source.model for item in slices for source in item.sources]
        bases = [item.base_model for item in slices] + [self.base_model]
        return list(dict.fromkeys([*names, *(base for base in bases if base is not None)]))

    def place_of(self, model: str) -> Place:
        """Where a model reference stands first."""
        slices = [item for module in self.modules.values() for item in module.slices]
        sources = (source.place.child("model") for item in slices for source in item.sources if source.model == model)
        bases = (item.place.child("base_model") for item in slices if item.base_model == model)
        return next(sources, None) or next(bases, None) or self.place.child("base_model")


@lru_cache(maxsize=1)
def json_schema() -> Mapping[str, Any]:
    """The JSON Schema of a recipe's structure."""
    schema: Mapping[str, Any] = json.loads(files("mergecore").joinpath("recipe.schema.json").read_text("utf-8"))
    return schema


def load_recipe(source: Path | str | Mapping[str, Any]) -> Recipe:
    """A recipe from a YAML file, from the lock of an earlier run, or from a mapping with the same keys.

    Raises:
        RecipeError: it cannot be read, or its structure is wrong.
    """
    if isinstance(source, Mapping):
        import yaml

        return parse_recipe(Place(source), yaml.safe_dump(json.loads(json.dumps(source)), sort_keys=False))
    if lock := read_lock(Path(source)):
        text = lock.value["recipe"]
        return replace(parse_recipe(load_yaml(text, lock.recipe_file), text), lock=lock)
    place, text = load_file(Path(source))
    return parse_recipe(place, text)


def parse_recipe(place: Place, text: str) -> Recipe:
    """A recipe from its document."""
    if place.value is None:
        raise place.error("is empty; a recipe has at least 'merge_method' and 'models'")
    check(place, json_schema())
    dtypes = [item for key in ("out_dtype", "dtype") if (item := place.get(key))]
    return Recipe(
        method=place.value["merge_method"],
        modules=_modules(place),
        base_model=_model(place.get("base_model")),
        parameters=_parameters(place),
        dtype=_dtype(dtypes[0].value) if dtypes else None,
        seed=int(place.value.get("seed", 0)),
        tokenizer=_tokenizer(place),
        chat_template=place.value.get("chat_template") or None,
        architectures=_architectures(place),
        evaluate=place.get("evaluate"),
        text=text,
        place=place,
    )


def _architectures(place: Place) -> tuple[tuple[Path, Place], ...]:
    listed = place.get("architectures")
    return tuple((place.folder / Path(item.value).expanduser(), item) for item in listed.elements()) if listed else ()


def _tokenizer(place: Place) -> Mapping[str, Any] | None:
    short, full = place.get("tokenizer_source"), place.get("tokenizer")
    if short is not None and full is not None:
        raise short.error("'tokenizer' and 'tokenizer_source' exclude each other; keep one")
    return {"source": short.value} if short is not None else full.value if full is not None else None


def _dtype(name: str) -> str:
    return {torch: safetensors for safetensors, torch in TORCH_NAMES.items()}[name.removeprefix("torch.")]


def _modules(place: Place) -> dict[str | None, ModuleRecipe]:
    _exactly_one(place, ("models", "slices", "modules"))
    modules = place.get("modules")
    if modules is None:
        return {None: _module(place, None)}
    for _, module in modules.items():
        _exactly_one(module, ("models", "slices"))
    return {name: _module(module, _parameters(module)) for name, module in modules.items()}


def _exactly_one(place: Place, keys: tuple[str, ...]) -> None:
    present = [key for key in keys if key in place.value]
    if not present:
        raise place.error(f"one of {', '.join(map(repr, keys))} is missing: it names the models to merge")
    if len(present) > 1:
        raise place.child(present[1]).error(f"{present[0]!r} and {present[1]!r} exclude each other; keep one")


def _module(place: Place, parameters: Place | None) -> ModuleRecipe:
    models, slices = place.get("models"), place.get("slices")
    if models is not None:
        sources = tuple(_source(item) for item in models.elements())
        return ModuleRecipe((Slice(sources, None, None, models),), parameters, True, place)
    assert slices is not None
    return ModuleRecipe(tuple(_slice(item) for item in slices.elements()), parameters, False, slices)


def _slice(place: Place) -> Slice:
    sources = tuple(_source(item) for item in place.child("sources").elements())
    return Slice(sources, _model(place.get("base_model")), _parameters(place), place)


def _source(place: Place) -> Source:
    model = _model(place.child("model"))
    assert model is not None
    span = place.get("layer_range")
    layers = None
    if span is not None:
        layers = (int(span.value[0]), int(span.value[1]))
        if layers[0] >= layers[1]:
            raise span.error(f"must go from a lower to a higher layer, not {show(span.value)}; the end is exclusive")
    return Source(model, layers, _parameters(place), place)


def _parameters(place: Place) -> Place | None:
    parameters = place.get("parameters")
    return parameters if parameters is not None and parameters.value else None


def _model(place: Place | None) -> str | None:
    """A model reference: text, or a mapping {model: {path: ...}} for paths that text cannot hold."""
    if place is None:
        return None
    check(place, {"$ref": "#/$defs/model", "$defs": json_schema()["$defs"]})
    value = place.value
    if isinstance(value, str):
        return value
    for key in value:
        if key not in ("model", "path"):
            raise place.child(key).error(f"{key!r} is not supported here; give the path of a model folder")
    if len(value) != 1:
        raise place.error("must be text, {path: ...} or {model: ...}")
    return _model(place.child(next(iter(value))))


__all__ = ["ModuleRecipe", "Recipe", "RecipeError", "Slice", "Source", "json_schema", "load_recipe", "parse_recipe"]
