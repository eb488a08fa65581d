"""An independent implementation of merging: resolves recipes and evaluates formulas in float64."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from method_formulae import FORMULAE, Array, Given
from safetensors.torch import load_file

from mergecore.api.random import uniform

Recipe = Mapping[str, Any]
ALL: Mapping[str, Any] = {}

LAYER = re.compile(r"(.*?\b(?:layers|h)\.)(\d+)(\..+)")
EMBEDDINGS = {"lm_head.weight": "model.embed_tokens.weight", "embed_out.weight": "gpt_neox.embed_in.weight"}
"""Heads, and the embeddings that replace them in a checkpoint without a head."""
BEFORE = (*EMBEDDINGS.values(), "transformer.wte.weight")
"""Names of weights before the layers."""


def read(folder: Path | str) -> dict[str, Array]:
    """Return every tensor of a checkpoint in float64."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: tensor.double().numpy() for file in files for name, tensor in load_file(file).items()}


def error(got: Array, expected: Array) -> float:
    """Return the largest error, relative to the expected magnitude or, if larger, the tensor's root mean square."""
    assert got.shape == expected.shape
    floor = math.sqrt(float(np.mean(expected**2)))
    scale = np.maximum(np.abs(expected), floor)
    off = np.abs(got - expected)
    return float(np.max(np.divide(off, scale, out=np.where(off > 0, np.inf, 0.0), where=scale > 0)))


@dataclass(frozen=True)
class Source:
    """A model in a slice: its tensors, its first layer, and its parameters."""

    model: str
    tensors: Mapping[str, Array]
    start: int
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Slice:
    """Output layers that are merged together. `base` is a source that does not count as a model."""

    sources: Sequence[Source]
    base: Source | None
    length: int
    parameters: Mapping[str, Any]


def merge(recipe: Recipe) -> dict[str, Array]:
    """Compute the output tensors of a recipe."""
    body = recipe.get("modules", {}).get("default", recipe)
    levels = [scope.get("parameters", ALL) for scope in ([recipe] if body is recipe else [body, recipe])]
    slices = list(_slices(body, recipe))
    formula, result = FORMULAE[recipe["merge_method"]], {}

    def make(name: str, piece: Slice, names: Sequence[str], t: float) -> None:
        found = [_find(source, own) for source, own in zip(piece.sources, names)]
        base = next((x for source, x in zip(piece.sources, found) if source is piece.base), None)
        parts = [part for part in zip(piece.sources, names, found) if part[0] is not piece.base]
        shared = [piece.parameters, *levels]

        def one(key: str, default: Any) -> Any:
            return _value(shared, key, name, t, default)

        def each(key: str, default: Any) -> list[Any]:
            return [_value([source.parameters, *shared], key, own, t, default) for source, own, _ in parts]

        def drawn(model: int) -> Array:
            return uniform(f"{recipe.get('seed', 0)}\0{name}\0{model}", 0, found[0].size).double().numpy()

        result[name] = formula(base, [x for _, _, x in parts], Given(one, each, drawn))

    first, last, layer = slices[0], slices[-1], 0
    for name in _outside(first, after=False):
        make(name, first, [name] * len(first.sources), 0.0)
    for piece in slices:
        for k in range(piece.length):
            t = k / (piece.length - 1) if piece.length > 1 else 1.0
            for head, tail in _in_layer(piece.sources[0], k):
                names = [f"{head}{source.start + k}{tail}" for source in piece.sources]
                make(f"{head}{layer}{tail}", piece, names, t)
            layer += 1
    for name in _outside(last, after=True):
        make(name, last, [name] * len(last.sources), 0.0)
    return result


def _slices(body: Recipe, recipe: Recipe) -> Iterator[Slice]:
    apart = recipe["merge_method"] not in ("linear", "passthrough", "karcher")
    outer = recipe.get("base_model")
    pieces = body.get("slices")
    if pieces is None:
        inputs = list(body["models"])
        if outer is not None and all(item["model"] != outer for item in inputs):
            inputs.append({"model": outer})
        pieces = [{"sources": inputs}]
    for piece in pieces:
        sources, lengths = [], set()
        for item in piece["sources"]:
            tensors = read(item["model"])
            start, end = item.get("layer_range", (0, _depth(tensors)))
            sources.append(Source(item["model"], tensors, start, item.get("parameters", ALL)))
            lengths.add(end - start)
        (length,) = lengths
        base = piece.get("base_model", outer) if apart else None
        own = next((source for source in sources if source.model == base), None)
        yield Slice(sources, own, length, piece.get("parameters", ALL))


def _depth(tensors: Mapping[str, Array]) -> int:
    return 1 + max(int(found[2]) for name in tensors if (found := LAYER.fullmatch(name)))


def _outside(piece: Slice, after: bool) -> list[str]:
    """Return the names before or after the layers."""
    names = dict.fromkeys(name for source in piece.sources for name in source.tensors if not LAYER.fullmatch(name))
    return [name for name in names if (name not in BEFORE) is after]


def _in_layer(source: Source, k: int) -> list[tuple[str, str]]:
    found = filter(None, map(LAYER.fullmatch, source.tensors))
    return [(match[1], match[3]) for match in found if int(match[2]) == source.start + k]


def _find(source: Source, name: str) -> Array:
    return source.tensors[name if name in source.tensors else EMBEDDINGS[name]]


def _value(levels: Sequence[Mapping[str, Any]], key: str, name: str, t: float, default: Any) -> Any:
    """Return the value from the first level that has one for this name, or the default."""
    for level in levels:
        for setting in _rules(level[key]) if key in level else ():
            if setting.get("filter") in (None, "*") or setting["filter"] in name:
                return _at(setting["value"], t)
    return default


def _rules(setting: Any) -> Sequence[Mapping[str, Any]]:
    """Convert a setting to a list of `{value, filter}`."""
    if isinstance(setting, list) and any(isinstance(item, Mapping) for item in setting):
        return setting
    return [setting] if isinstance(setting, Mapping) else [{"value": setting}]


def _at(value: Any, t: float) -> Any:
    """Return the value of a gradient at t, interpolated between its neighbors. For a boolean, use the lower one."""
    if not isinstance(value, list):
        return value
    place = t * (len(value) - 1)
    if any(isinstance(item, bool) for item in value):
        return value[math.floor(place)]
    return float(np.interp(place, range(len(value)), value))
