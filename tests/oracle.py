"""Merges computed a second time: recipes resolved and formulae evaluated in NumPy float64, by other code than ours."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

Array = NDArray[np.float64]
Recipe = Mapping[str, Any]
ALL: Mapping[str, Any] = {}

LAYER = re.compile(r"(.*?\b(?:layers|h)\.)(\d+)(\..+)")
EMBEDDINGS = {"lm_head.weight": "model.embed_tokens.weight", "embed_out.weight": "gpt_neox.embed_in.weight"}
"""Heads, and the embeddings that stand for them in a checkpoint without a head."""
BEFORE = (*EMBEDDINGS.values(), "transformer.wte.weight")
"""What comes before the layers."""


def read(folder: Path | str) -> dict[str, Array]:
    """Every tensor of a checkpoint, in float64."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: tensor.double().numpy() for file in files for name, tensor in load_file(file).items()}


def error(got: Array, expected: Array) -> float:
    """Largest error of an element, relative to its expected magnitude or, if larger, the tensor's root mean square."""
    assert got.shape == expected.shape
    floor = math.sqrt(float(np.mean(expected**2)))
    scale = np.maximum(np.abs(expected), floor)
    off = np.abs(got - expected)
    return float(np.max(np.divide(off, scale, out=np.where(off > 0, np.inf, 0.0), where=scale > 0)))


@dataclass(frozen=True)
class Source:
    """A model's share in a slice: its tensors, its first layer, and its own parameters."""

    model: str
    tensors: Mapping[str, Array]
    start: int
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Slice:
    """Output layers that are made together; `base` is a source that is no model of its own."""

    sources: Sequence[Source]
    base: Source | None
    length: int
    parameters: Mapping[str, Any]


def merge(recipe: Recipe) -> dict[str, Array]:
    """The tensors that a recipe makes."""
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

        def each(key: str, default: Any = None) -> list[Any]:
            return [_value([source.parameters, *shared], key, own, t, default) for source, own, _ in parts]

        result[name] = formula(base, [x for _, _, x in parts], one, each)

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
    apart = recipe["merge_method"] in ("slerp", "task_arithmetic", "ties")
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
    """Names outside the layers: before them, or after."""
    names = dict.fromkeys(name for source in piece.sources for name in source.tensors if not LAYER.fullmatch(name))
    return [name for name in names if (name not in BEFORE) is after]


def _in_layer(source: Source, k: int) -> list[tuple[str, str]]:
    found = filter(None, map(LAYER.fullmatch, source.tensors))
    return [(match[1], match[3]) for match in found if int(match[2]) == source.start + k]


def _find(source: Source, name: str) -> Array:
    return source.tensors[name if name in source.tensors else EMBEDDINGS[name]]


def _value(levels: Sequence[Mapping[str, Any]], key: str, name: str, t: float, default: Any) -> Any:
    """The first level's value that has one for this name; the default where none has."""
    for level in levels:
        for setting in _rules(level[key]) if key in level else ():
            if setting.get("filter") in (None, "*") or setting["filter"] in name:
                return _at(setting["value"], t)
    return default


def _rules(setting: Any) -> Sequence[Mapping[str, Any]]:
    """A setting as a list of `{value, filter}`."""
    if isinstance(setting, list) and any(isinstance(item, Mapping) for item in setting):
        return setting
    return [setting] if isinstance(setting, Mapping) else [{"value": setting}]


def _at(value: Any, t: float) -> Any:
    """A gradient's value at t: between its two neighbours, or the one below for a switch."""
    if not isinstance(value, list):
        return value
    place = t * (len(value) - 1)
    if any(isinstance(item, bool) for item in value):
        return value[math.floor(place)]
    return float(np.interp(place, range(len(value)), value))


One, Each = Callable[[str, Any], Any], Callable[..., list[Any]]


def linear(base: Array | None, models: Sequence[Array], one: One, each: Each) -> Array:
    weights = each("weight")
    total = sum(w * x for w, x in zip(weights, models, strict=True))
    return total / sum(weights) if one("normalize", True) else total


def slerp(base: Array, models: Sequence[Array], one: One, each: Each) -> Array:
    (other,), t = models, one("t", None)
    norms = [norm if norm > 1e-8 else 1.0 for norm in (np.linalg.norm(base), np.linalg.norm(other))]
    cosine = np.clip(np.sum(base / norms[0] * (other / norms[1])), -1, 1)
    if abs(cosine) > 0.9995:
        return (1 - t) * base + t * other
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * base + np.sin(t * angle) * other) / np.sin(angle)


def task_arithmetic(base: Array, models: Sequence[Array], one: One, each: Each) -> Array:
    weights = each("weight", 1.0)
    total = sum(w * (x - base) for w, x in zip(weights, models, strict=True))
    divisor = sum(weights) if one("normalize", False) else 1.0
    return base + one("lambda", 1.0) * total / (divisor if abs(divisor) >= 1e-8 else 1.0)


def ties(base: Array, models: Sequence[Array], one: One, each: Each) -> Array:
    weights, rescale = np.array(each("weight", 1.0)), one("rescale", False)
    kept = [_largest(x - base, density, rescale) for x, density in zip(models, each("density", 1.0), strict=True)]
    deltas = np.stack([w * x for w, x in zip(weights, kept, strict=True)])
    elected = np.where(deltas.sum(0) >= 0, 1.0, -1.0)
    agrees = np.sign(deltas) == elected
    total = np.where(agrees, deltas, 0.0).sum(0)
    if one("normalize", True):
        share = np.tensordot(weights, agrees.astype(np.float64), 1)
        total = total / np.where(share == 0, 1.0, share)
    return base + one("lambda", 1.0) * total


def _largest(delta: Array, density: float, rescale: bool) -> Array:
    if density >= 1:
        return delta
    flat = delta.ravel()
    kept = np.zeros_like(flat)
    if density > 0:
        places = np.argsort(-np.abs(flat), kind="stable")[: max(1, int(density * flat.size))]
        kept[places] = flat[places]
    before, after = np.abs(flat).sum(), np.abs(kept).sum()
    factor = before / after if rescale and min(before, after) >= 1e-7 else 1.0
    return (factor * kept).reshape(delta.shape)


def passthrough(base: Array | None, models: Sequence[Array], one: One, each: Each) -> Array:
    (model,), (scale,) = models, each("scale", 1.0)
    return scale * model


FORMULAE: Mapping[str, Callable[..., Array]] = {
    "linear": linear,
    "slerp": slerp,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "passthrough": passthrough,
}
