"""Recipes: YAML in, `Recipe` out, every mistake with its file, line and path."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mergecore.api.files import TORCH_NAMES
from mergecore.documents import Place, check, show
from mergecore.errors import RecipeError
from mergecore.recipes.lockfile import Lock


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
        prefer: distributions of which the first answers where several have a plugin of one name.
        evaluate: what to measure of the result, if anything.
        text: the YAML.
        place: the whole document.
        name: what other recipes of the file call it; None: it has none.
        stages: the recipes that stand where models do, by the reference to them.
        others: of the recipe that makes the output: every other named one of its file.
        lock: of the recipe that makes the output: the lock that it was taken from, which says what it was run on.
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
    prefer: tuple[str, ...]
    evaluate: Place | None
    text: str
    place: Place
    name: str | None = None
    stages: Mapping[str, Recipe] = field(default_factory=dict)
    others: Mapping[str, Recipe] = field(default_factory=dict)
    lock: Lock | None = None

    @property
    def models(self) -> list[str]:
        """Every model reference in the recipe's order, the base model last unless it is an input too."""
        return list(dict.fromkeys(model for model, _ in self.references()))

    def place_of(self, model: str) -> Place:
        """Where a model reference stands first."""
        return next(place for reference, place in self.references() if reference == model)

    def references(self) -> Iterator[tuple[str, Place]]:
        """Every model reference with where it stands, base models last."""
        slices = [item for module in self.modules.values() for item in module.slices]
        for source in (source for item in slices for source in item.sources):
            yield source.model, source.place.child("model")
        bases = [*((item.base_model, item.place) for item in slices), (self.base_model, self.place)]
        for model, place in bases:
            if model is not None:
                yield model, place.child("base_model")


@lru_cache(maxsize=1)
def json_schema() -> Mapping[str, Any]:
    """The JSON Schema of a recipe's structure."""
    schema: Mapping[str, Any] = json.loads(files("mergecore.recipes").joinpath("recipe.schema.json").read_text("utf-8"))
    return schema


def parse_recipe(place: Place, text: str) -> Recipe:
    """A recipe from its document.

    Raises:
        RecipeError: its structure is wrong.
    """
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
        prefer=tuple(place.value.get("prefer", ())),
        evaluate=place.get("evaluate"),
        text=text,
        place=place,
        name=place.value.get("name"),
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
    """A model reference: text, a mapping with path, revision and adapter, which is text with @ and +, or a label."""
    if place is None:
        return None
    check(place, {"$ref": "#/$defs/model", "$defs": json_schema()["$defs"]})
    value = place.value
    if isinstance(value, str):
        return value
    if is_recipe(place):
        return _label(value)
    for key in value:
        if key not in ("model", "path", "revision", "adapter", "lora"):
            raise place.child(key).error(f"{key!r} is not supported here; give the path of a model folder, or a recipe")
    models, adapters = ([key for key in keys if value.get(key) is not None]
                        for keys in (("model", "path"), ("adapter", "lora")))  # fmt: skip
    revision = value.get("revision")
    fixed = revision is None or (isinstance(revision, str) and "path" in value)
    if len(models) != 1 or len(adapters) > 1 or not fixed:
        forms = "must be text, {path: ...}, {path: ..., revision: text} or {model: ...}"
        raise place.error(f"{forms}, with {{adapter: ...}} for an adapter or a list")
    base = f"{_model(place.child(models[0]))}{f'@{revision}' if revision else ''}"
    if not adapters:
        return base
    given = place.child(adapters[0])
    added = [_model(item) for item in (given.elements() if isinstance(given.value, list) else [given])]
    joined = "+".join([base, *map(str, added)])
    # A folder of just that name would be taken for the whole.
    return "+".join([f"{base}/.", *map(str, added)]) if os.path.isdir(joined) else joined


def is_recipe(place: Place) -> bool:
    """Whether a recipe stands where a model does."""
    return isinstance(place.value, Mapping) and "merge_method" in place.value


def _label(value: Mapping[str, Any]) -> str:
    """What a nested recipe is called: its name, else its method and a digest, so that equal ones are one model."""
    name = value.get("name")
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return name if isinstance(name, str) and name else f"{value['merge_method']}#{digest[:6]}"


__all__ = ["ModuleRecipe", "Recipe", "RecipeError", "Slice", "Source", "json_schema", "is_recipe", "parse_recipe"]
