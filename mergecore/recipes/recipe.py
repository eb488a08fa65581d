"""Parse recipes from YAML. Every error has its file, line, and path."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mergecore.api.files import TORCH_NAMES
from mergecore.discovery import known_parameters
from mergecore.documents import Place, show
from mergecore.errors import RecipeError
from mergecore.recipes.lockfile import Lock
from mergecore.validation import check


@dataclass(frozen=True)
class Source:
    """One input of a slice: a model, its layers [start, end) (None for all layers), and its parameters."""

    model: str
    layer_range: tuple[int, int] | None
    parameters: Place | None
    place: Place


@dataclass(frozen=True)
class Slice:
    """A range of output layers and the sources that are merged into it."""

    sources: tuple[Source, ...]
    base_model: str | None
    parameters: Place | None
    place: Place


@dataclass(frozen=True)
class ModuleRecipe:
    """The inputs of one module of the architecture. `whole` is True if they come from `models`."""

    slices: tuple[Slice, ...]
    parameters: Place | None
    whole: bool
    place: Place


@dataclass(frozen=True)
class Recipe:
    """A recipe with a valid structure. Names, layers, and parameters are checked later, during planning.

    Attributes:
        method: name of the merge method.
        modules: recipes by module name. The key None is for every module of the architecture.
        base_model, parameters: values at the top level.
        dtype: dtype of the output, by safetensors name. None keeps the dtype of the inputs.
        seed: seed for all random numbers.
        tokenizer: source of the output's vocabulary. None if the models share one.
        chat_template: as written. None keeps the template of the tokenizer.
        architectures: definition files, each with its place in the recipe.
        prefer: distributions to prefer, in order, if several provide a plugin with the same name.
        evaluate: evaluations of the result, if any.
        text: the YAML text.
        place: the root of the document.
        name: the name that other recipes in the file use for it, if any.
        stages: recipes used in place of models, by reference.
        others: for the main recipe, every other named recipe in the file.
        lock: for the main recipe, the lock file that it was read from, which records the inputs of that run.
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
        """Every model reference, in recipe order. The base model is last unless it is also an input."""
        return list(dict.fromkeys(model for model, _ in self.references()))

    @property
    def reads(self) -> list[Path]:
        """The files that it is read from and that it names, except those of models and evaluations."""
        named = [path for path, _ in self.architectures]
        if self.chat_template:  # the name of a file, the name of a bundled template, or its text
            named.append(self.place.folder / self.chat_template)
        own = [Path(file) for file in (self.place.file, self.lock and self.lock.file) if file]
        return [*own, *named]

    def place_of(self, model: str) -> Place:
        """Return the first place that refers to a model."""
        return next(place for reference, place in self.references() if reference == model)

    def references(self) -> Iterator[tuple[str, Place]]:
        """Yield every model reference with its place, base models last."""
        slices = [item for module in self.modules.values() for item in module.slices]
        for source in (source for item in slices for source in item.sources):
            yield source.model, source.place.child("model")
        bases = [*((item.base_model, item.place) for item in slices), (self.base_model, self.place)]
        for model, place in bases:
            if model is not None:
                yield model, place.child("base_model")


@lru_cache(maxsize=1)
def json_schema() -> Mapping[str, Any]:
    """Return the JSON Schema for the structure of recipes."""
    schema: Mapping[str, Any] = json.loads(files("mergecore.recipes").joinpath("recipe.schema.json").read_text("utf-8"))
    return schema


def parse_recipe(place: Place, text: str) -> Recipe:
    """Parse a recipe from its document.

    Raises:
        RecipeError: if its structure is invalid.
    """
    _check_command(place)
    check(place, json_schema(), _hints())
    place = replace(place, value={key: item for key, item in place.value.items() if key in json_schema()["properties"]})
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


OTHER_COMMANDS = {"genome": "evolve", "experts": "moe"}
"""Keys of files that are not recipes, and the commands that take these files."""


def _check_command(place: Place) -> None:
    if isinstance(place.value, Mapping) and "merge_method" not in place.value:
        for key in OTHER_COMMANDS.keys() & place.value.keys():
            command = f"mergecore {OTHER_COMMANDS[key]} {place.file or 'FILE'} OUT"
            raise place.child(key).error(f"a file with {key!r} is not a recipe; run: {command}", key=True)


@lru_cache(maxsize=1)
def _hints() -> Mapping[str, str]:
    """Return what to do with keys that belong elsewhere."""
    layers = "only a source under 'slices: - sources:' can have it; without it, a model has all its layers"
    return {
        **dict.fromkeys(known_parameters(), "put it under 'parameters:'"),
        "layer_range": layers,
        "random_seed": "write 'seed' at the top level",
    }


def _architectures(place: Place) -> tuple[tuple[Path, Place], ...]:
    listed = place.get("architectures")
    return (
        tuple((place.folder / Path(os.path.expanduser(item.value)), item) for item in listed.elements())
        if listed
        else ()
    )


def _tokenizer(place: Place) -> Mapping[str, Any] | None:
    short, full = place.get("tokenizer_source"), place.get("tokenizer")
    if short is not None and full is not None:
        raise short.error("'tokenizer' and 'tokenizer_source' cannot be used together; keep one")
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
        raise place.error(f"list the models to merge under one of {', '.join(map(repr, keys))}; none is present")
    if len(present) > 1:
        raise place.child(present[1]).error(f"{present[0]!r} and {present[1]!r} cannot be used together; keep one")


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
        check_layers(span)
        layers = (int(span.value[0]), int(span.value[1]))
    return Source(model, layers, _parameters(place), place)


def check_layers(place: Place) -> None:
    """Raise `RecipeError` if a range of layers is empty. The schema checks its type."""
    start, *rest = [item for item in place.value if isinstance(item, int)] or [0]
    if len(rest) == 1 and start >= rest[0]:
        raise place.error(f"the end must be greater than the start, not {show(place.value)}; the end is exclusive")


def _parameters(place: Place) -> Place | None:
    parameters = place.get("parameters")
    return parameters if parameters is not None and parameters.value else None


def _model(place: Place | None) -> str | None:
    """Return a model reference as text: a mapping with path, revision, and adapter is ``path@revision+adapter``."""
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
            raise place.child(key).error(f"{key!r} is not supported here; use a path to a model folder, or a recipe")
    models, adapters = ([key for key in keys if value.get(key) is not None]
                        for keys in (("model", "path"), ("adapter", "lora")))  # fmt: skip
    revision = value.get("revision")
    fixed = revision is None or (isinstance(revision, str) and "path" in value)
    if len(models) != 1 or len(adapters) > 1 or not fixed:
        forms = "must be a string, {path: ...}, {path: ..., revision: ...}, or {model: ...}"
        raise place.error(f"{forms}; a mapping can also have {{adapter: ...}} with one adapter or a list")
    base = f"{_model(place.child(models[0]))}{f'@{revision}' if revision else ''}"
    if not adapters:
        return base
    given = place.child(adapters[0])
    added = [_model(item) for item in (given.elements() if isinstance(given.value, list) else [given])]
    joined = "+".join([base, *map(str, added)])
    # If a folder with the joined name exists, "/." keeps it from being mistaken for the model.
    return "+".join([f"{base}/.", *map(str, added)]) if os.path.isdir(joined) else joined


def is_recipe(place: Place) -> bool:
    """Return True if the place contains a recipe instead of a model."""
    return isinstance(place.value, Mapping) and "merge_method" in place.value


def _label(value: Mapping[str, Any]) -> str:
    """Return the name of a nested recipe, or else its method and a digest, so that equal recipes are one model."""
    name = value.get("name")
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return name if isinstance(name, str) and name else f"{value['merge_method']}#{digest[:6]}"


__all__ = [
    "ModuleRecipe", "Recipe", "RecipeError", "Slice", "Source",
    "check_layers", "is_recipe", "json_schema", "parse_recipe",
]  # fmt: skip
