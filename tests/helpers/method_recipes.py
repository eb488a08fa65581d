"""Recipes with gradients, filters, and slices for every first-party method, and checks of their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import float64_oracle
import torch
import transformers

import mergecore

Models = Sequence[str]


def source(model: str, layer_range: tuple[int, int] | None = None, **parameters: Any) -> dict[str, Any]:
    """One entry of `models` or of a slice's `sources`."""
    entry: dict[str, Any] = {"model": model}
    if layer_range is not None:
        entry["layer_range"] = list(layer_range)
    return {**entry, "parameters": parameters} if parameters else entry


def only(text: str, value: Any) -> dict[str, Any]:
    """A value for weights with `text` in their names."""
    return {"filter": text, "value": value}


def rest(value: Any) -> dict[str, Any]:
    """A value for all weights not matched by an earlier filter."""
    return {"value": value}


def linear(models: Models, n: int) -> dict[str, dict[str, Any]]:
    """Linear recipes for a base, three fine-tunes, and their number of layers."""
    base, a, b, c = models
    steps = [only("mlp", [0.1, 0.9, 0.4]), only("layers.1.", 0.7), rest(0.5)]
    return {
        "plain": {"models": [source(a, weight=0.6), source(b, weight=0.3), source(c, weight=0.4)]},
        "gradients and filters": {
            "models": [source(a, weight=steps), source(b, weight=[1, 0.25])],
            "base_model": base,  # treated like the other inputs
            "parameters": {"weight": 0.2, "normalize": [only("norm", [False, True]), only("mlp.", False)]},
        },
        "slices at four levels": {
            "modules": {
                "default": {
                    "slices": [
                        {
                            "sources": [source(a, (0, n - 1)), source(b, (1, n), weight=[only("layers.1.", 0.9)])],
                            "parameters": {"weight": [only("mlp", [0.2, 0.8])]},
                        },
                        {"sources": [source(c, (0, 1), weight=only("layers.0.", 0.3)), source(a, (n - 1, n))]},
                        {"sources": [source(b, (0, n)), source(b, (0, n))], "parameters": {"weight": [0.1, 0.7]}},
                    ],
                    "parameters": {
                        "weight": [only("down", 1.1), only("norm", 0.35)],
                        "normalize": only(f"layers.{n - 1}.", False),
                    },
                }
            },
            "parameters": {"weight": [only("embed", 0.8), rest([0.6, 0.5])], "normalize": True},
        },
    }


def slerp(models: Models, n: int) -> dict[str, dict[str, Any]]:
    """SLERP recipes, as above."""
    base, a, b, c = models
    steps = [only("mlp", [0, 0.5, 0.3, 1]), only("norm", [1, 0]), rest(0.4)]
    pair = [source(b, (0, n)), source(base, (0, n))]
    return {
        "plain": {"models": [source(base), source(c)], "base_model": base, "parameters": {"t": 0.35}},
        "gradients and filters": {"models": [source(b)], "base_model": a, "parameters": {"t": steps}},
        "slices with bases of their own": {
            "base_model": base,
            "slices": [
                {"sources": pair, "parameters": {"t": [only("layers.1.", 0.9), only("mlp", [0.2, 0.7])]}},
                {"sources": [source(a, (0, n - 1)), source(c, (1, n))], "base_model": c},
                {"sources": [source(base, (n - 1, n)), source(c, (0, 1))]},
            ],
            "parameters": {"t": [only(f"layers.{n}.", 0.8), only(f"layers.{2 * n - 1}.", [1, 0.25]), rest([0.1, 0.6])]},
        },
    }


def task_arithmetic(models: Models, n: int) -> dict[str, dict[str, Any]]:
    """Task arithmetic recipes, as above."""
    base, a, b, c = models
    steps = [only("layers.0.", 1.3), only("mlp", [1, -0.4])]
    return {
        "plain": {
            "models": [source(a, weight=0.5), source(b, weight=0.8), source(c, weight=-0.3)],
            "base_model": base,
            "parameters": {"lambda": 0.7},
        },
        "gradients and filters": {
            "models": [source(base), source(a, weight=steps), source(c, weight=[0.2, 1.1, 0.6])],
            "base_model": base,
            "parameters": {"weight": 0.9, "normalize": only("mlp", [True, False]), "lambda": [1, 0.5]},
        },
        "slices": {
            "base_model": base,
            "slices": [
                {
                    "sources": [source(a, (0, n - 1), weight=steps), source(base, (1, n)), source(b, (1, n))],
                    "parameters": {"weight": [0.3, 0.9], "lambda": [only("norm", 2), rest([1, 0.5])]},
                },
                {"sources": [source(a, (n - 1, n)), source(c, (0, 1), weight=only("layers.0.", 0.6))], "base_model": a},
            ],
            "parameters": {"weight": 1.2, "normalize": [only(f"layers.{n - 1}.", True), rest(False)]},
        },
    }


def ties(models: Models, n: int) -> dict[str, dict[str, Any]]:
    """TIES recipes, as above."""
    base, a, b, c = models
    trio = [source(a, density=0.5), source(b, density=0, weight=0.7), source(c, density=1, weight=0.2)]
    steps = [only("mlp", [1, 0.2]), only("layers.0.", 0.01), rest(0.6)]
    return {
        "plain": {"models": trio, "base_model": base},
        "rescaled sums": {
            "models": [source(a, density=0.3), source(b, density=0.5, weight=0.4), source(c, weight=-0.2)],
            "base_model": base,
            "parameters": {"rescale": True, "normalize": False, "lambda": 1.5},
        },
        "gradients and filters": {
            "models": [source(a, density=steps), source(b, weight=[0.4, 1.4]), source(c, density=0.8)],
            "base_model": base,
            "parameters": {
                "density": [only("self_attn", [0, 0.5, 1]), rest(0.45)],
                "rescale": [True, False],
                "normalize": [only("norm", False), only("mlp", [False, True])],
                "lambda": [only("down", 0.5), rest([1, 1.5])],
            },
        },
        "slices": {
            "base_model": base,
            "slices": [
                {
                    "sources": [source(a, (0, n - 1), density=steps), source(b, (1, n)), source(base, (0, n - 1))],
                    "parameters": {"density": [0.9, 0.3], "rescale": only("mlp", True)},
                },
                {"sources": [source(c, (n - 1, n), weight=0.5), source(b, (0, 1)), source(a, (0, 1))], "base_model": b},
            ],
            "parameters": {"density": 0.5, "lambda": [only(f"layers.{n - 1}.", 0.6), rest([0.8, 1])]},
        },
    }


def passthrough(models: Models, n: int) -> dict[str, dict[str, Any]]:
    """Passthrough recipes, as above."""
    base, a, b, c = models
    steps = [only("layers.0.", 0.5), only("norm", [1, 2, 4]), rest(1)]
    return {
        "plain": {"models": [source(a)]},
        "gradients and filters": {"models": [source(b, scale=[only("down", 0), only("mlp", [1, 2, 4]), rest(1.1)])]},
        "stacked and repeated layers": {
            "slices": [
                {"sources": [source(a, (0, n - 1))]},
                {"sources": [source(b, (1, n), scale=steps)]},
                *[{"sources": [source(base, (0, 1), scale=steps)], "parameters": {"scale": 3}}] * 2,
                {"sources": [source(c, (0, n))], "parameters": {"scale": [only("layers.1.", 0.7), rest([1, 0.3])]}},
            ]
        },
    }


RECIPES: dict[str, Callable[[Models, int], dict[str, dict[str, Any]]]] = {
    item.__name__: item for item in (linear, slerp, task_arithmetic, ties, passthrough)
}
CASES = [(method, label) for method, recipes in RECIPES.items() for label in recipes("0123", 4)]
"""The names of the recipes for every method."""


def recipe_of(method: str, label: str, models: Models, depth: int) -> dict[str, Any]:
    """Return a complete recipe for a base and three fine-tunes with `depth` layers."""
    return {"merge_method": method, **RECIPES[method](models, depth)[label]}


def largest_error(recipe: dict[str, Any], out: Path) -> float:
    """Run a recipe, check the tensor names, and return the largest relative error over all tensors."""
    mergecore.run(recipe, out)
    got, expected = float64_oracle.read(out), float64_oracle.merge(recipe)
    assert set(got) == set(expected)
    return max(float64_oracle.error(got[name], expected[name]) for name in expected)


def check_loads(out: Path) -> None:
    """Check that transformers loads every tensor of the output, misses none, and can run the model."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
    state, stored = model.state_dict(), float64_oracle.read(out)
    for name in state.keys() & stored.keys():  # old checkpoints have buffers that current models do not have
        assert (state[name].double().numpy() == stored[name]).all(), name
    assert model(torch.arange(6)[None]).logits.isfinite().all()
