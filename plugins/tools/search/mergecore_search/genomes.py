"""Read search files: recipes with open values, or mergekit-evolve configs, which are converted to such recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergecore.tooling import Place, Registry, check, load_file, open_model
from mergecore_search.space import Space, find_space

PARAMETERS = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "dare_ties": ("weight", "density"),
}
"""The parameters that mergekit-evolve optimizes for each method."""

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["models", "merge_method"],
    "additionalProperties": False,
    "properties": {
        "models": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        "merge_method": {"enum": list(PARAMETERS)},
        "base_model": {"type": ["string", "null"]},
        "tokenizer_source": {"type": ["string", "null"]},
        "layer_granularity": {"type": "integer", "minimum": 0},
        "normalize": {"type": ["boolean", "null"]},
        "allow_negative_weights": {"type": "boolean"},
        "filters": {"type": ["array", "null"], "items": {"type": "string", "minLength": 1}},
        "smooth": {"type": "boolean"},
    },
}


def read_space(path: Path, registry: Registry) -> Space:
    """Read the open values of a search file.

    Raises:
        InputError: The file cannot be read, has no open values, or uses unsupported features.
    """
    place, _ = load_file(path)
    if not isinstance(place.value, Mapping):
        raise place.error("must be a recipe with open values like {search: [0, 1]}")
    if "genome" not in place.value:
        return find_space(place)
    genome = place.child("genome")
    if isinstance(genome.value, Mapping) and genome.value.get("merge_method") == "slerp":
        raise genome.child("merge_method").error(
            "searching for the models of slerp is not supported; use a recipe of two models with t: {search: [0, 1]}"
        )
    check(genome, SCHEMA)
    return find_space(Place(_recipe(genome, registry), (), place.file))


def _recipe(genome: Place, registry: Registry) -> dict[str, Any]:
    """Convert a genome to a recipe, in bfloat16 like mergekit-evolve."""
    value = genome.value
    method, models = value["merge_method"], value["models"]
    normalize = value.get("normalize")
    recipe: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16"}
    for key in ("base_model", "tokenizer_source"):
        if value.get(key):
            recipe[key] = value[key]
    base = recipe.get("base_model")
    if method == "linear" and base not in models:  # it would need a weight, but none is searched
        recipe.pop("base_model", None)
        base = None
    recipe["parameters"] = {"normalize": method != "task_arithmetic" if normalize is None else normalize}
    size = value.get("layer_granularity", 0)
    groups = _groups(genome, size, registry) if size else []
    low = -1.0 if value.get("allow_negative_weights") else 0.0
    if value.get("smooth") or not groups:
        recipe["models"] = [_model(model, value, low, max(1, len(groups)), method) for model in models]
        return recipe
    recipe["slices"] = [{"sources": [
        *({**_model(model, value, low, 1, method), "layer_range": list(group)} for model in models),
        *([{"model": base, "layer_range": list(group)}] if base and base not in models else []),
    ]} for group in groups]  # fmt: skip
    return recipe


def _groups(genome: Place, size: int, registry: Registry) -> list[tuple[int, int]]:
    checkpoint = open_model(genome.value["models"][0], registry)
    try:
        layers = next(
            (checkpoint.config[key] for key in ("num_hidden_layers", "n_layer") if key in checkpoint.config), 0
        )
    finally:
        checkpoint.close()
    if not layers or layers % size:
        raise genome.child("layer_granularity").error(
            f"must divide {layers}, the layer count of {genome.value['models'][0]}"
        )
    return [(start, start + size) for start in range(0, layers, size)]


def _model(model: str, genome: Mapping[str, Any], low: float, stages: int, method: str) -> dict[str, Any]:
    ranges = {"weight": [low, 1.0], "density": [0.0, 1.0]}
    parameters = {name: _values(ranges[name], stages, genome.get("filters") or ()) for name in PARAMETERS[method]}
    return {"model": model, "parameters": parameters}


def _values(bounds: list[float], stages: int, filters: Sequence[str]) -> Any:
    """Return one open value or a gradient of them. With filters, return one per filter and one for the rest."""

    def one() -> Any:
        return [{"search": list(bounds)} for _ in range(stages)] if stages > 1 else {"search": list(bounds)}

    if not filters:
        return one()
    return [*({"filter": text, "value": one()} for text in filters), {"value": one()}]
