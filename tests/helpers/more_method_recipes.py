"""Recipes with gradients and filters for the methods tested on one architecture, at least three for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from method_recipes import Models, only, rest, source

Recipes = dict[str, dict[str, Any]]


def nuslerp(models: Models, n: int) -> Recipes:
    """NuSLERP recipes for a base, three fine-tunes, and their number of layers."""
    base, a, b, c = models
    pair = [source(a, weight=0.6), source(b, weight=0.4)]
    steps = [only("mlp", [0.1, 0.9]), only("norm", 0), rest([1, 0.5])]
    return {
        "models": {"models": [source(a, weight=0.3), source(c)]},
        "task vectors": {"models": pair, "base_model": base},
        "rows and columns": {
            "models": [source(a, weight=steps), source(b, weight=0.4)],
            "base_model": base,
            "parameters": {
                "nuslerp_flatten": False,
                "nuslerp_row_wise": [only("mlp", [True, False]), only("q_proj", 1)],
            },
        },
        "slices": {
            "slices": [
                {"sources": [source(a, (0, n - 1), weight=0.2), source(c, (1, n))]},
                {"sources": [source(b, (n - 1, n)), source(c, (0, 1))], "parameters": {"weight": [1, 0.4]}},
            ],
            "parameters": {"nuslerp_flatten": [only("attn", False), rest(True)]},
        },
    }


def multislerp(models: Models, n: int) -> Recipes:
    """Multi-SLERP recipes, as above."""
    base, a, b, c = models
    trio = [source(a, weight=0.5), source(b, weight=[0.2, 0.9]), source(c)]
    return {
        "models": {"models": trio},
        "task vectors": {"models": trio, "base_model": base, "parameters": {"eps": 1e-4}},
        "weights as they are": {
            "models": trio,
            "base_model": base,
            "parameters": {
                "weight": [only("mlp", 0.8), rest([0.4, 0.1])],
                "normalize_weights": [only("up", True), rest(0)],
            },
        },
        "one model": {"models": [source(b, weight=0.3)], "base_model": base},
    }


def karcher(models: Models, n: int) -> Recipes:
    """Karcher mean recipes, as above."""
    base, a, b, c = models
    return {
        "plain": {"models": [source(a), source(b), source(c)]},
        "two of unequal lengths, one step": {
            "slices": [{"sources": [source(a, (0, n)), source(c, (0, n))]}],
            "parameters": {"max_iter": 1, "tol": 1e-9},
        },
        "gradients and filters": {
            "models": [source(a), source(b)],
            "base_model": base,  # treated like the other inputs
            "parameters": {"max_iter": [only("mlp", [0, 4]), rest(3)], "tol": [only("norm", 0.2), rest([0, 1e-3])]},
        },
    }


def thinned(models: Models, n: int, more: dict[str, Any]) -> Recipes:
    """Recipes shared by the sparse task-vector methods: weights, densities, and `more` parameters for one model."""
    base, a, b, c = models
    steps = [only("mlp", [0.8, 0.3]), only("norm", 1), rest(0.6)]
    return {
        "plain": {
            "models": [source(a, weight=0.6), source(b, weight=0.4)],
            "base_model": base,
            "parameters": {"density": 0.5},
        },
        "gradients and filters": {
            "models": [
                source(a, density=steps, **more),
                source(b, weight=[0.4, 1.4]),
                source(c, weight=-0.3, density=0),
            ],
            "base_model": base,
            "seed": 7,
            "parameters": {
                "density": [only("self_attn", [0.4, 0.7]), rest(0.45)],
                "rescale": [only("down", True), rest([True, False])],
                "normalize": [only("norm", False), only("mlp", [False, True]), only("up", True)],
                "lambda": [only("down", 0.5), rest([1, 1.5])],
            },
        },
        "slices": {
            "base_model": base,
            "slices": [
                {"sources": [source(a, (0, n - 1), **more), source(b, (1, n)), source(base, (0, n - 1))]},
                {"sources": [source(c, (n - 1, n), weight=0.5), source(a, (0, 1))], "base_model": a},
            ],
            "parameters": {"density": [0.7, 0.3], "rescale": False, "normalize": True},
        },
    }


def dare(models: Models, n: int) -> Recipes:
    """DARE recipes, as above."""
    return thinned(models, n, {})


def della(models: Models, n: int) -> Recipes:
    """DELLA recipes, as above."""
    return thinned(models, n, {"epsilon": [only("q_proj", 0), rest([0.1, 0.19])]})


def breadcrumbs(models: Models, n: int) -> Recipes:
    """Breadcrumbs recipes, as above."""
    return thinned(models, n, {"gamma": [only("norm", 0), only("k_proj", 0.9), rest([0.02, 0.3])]})


def sce(models: Models, n: int) -> Recipes:
    """SCE recipes, as above."""
    base, a, b, c = models
    trio = {"models": [source(a), source(b), source(c)], "base_model": base}
    return {
        "all elements": trio,
        "a third": {**trio, "parameters": {"select_topk": 0.3}},
        "gradients and filters": {
            **trio,
            "parameters": {"select_topk": [only("norm", 0), only("mlp", [0.1, 1]), rest(0.5)]},
        },
    }


def model_stock(models: Models, n: int) -> Recipes:
    """Model Stock recipes, as above."""
    base, a, b, c = models
    return {
        "two models": {"models": [source(a), source(b)], "base_model": base},
        "rows": {"models": [source(a), source(b), source(c)], "base_model": base, "parameters": {"filter_wise": True}},
        "gradients and filters": {
            "models": [source(base), source(a), source(b), source(c)],
            "base_model": base,
            "parameters": {"filter_wise": [only("attn", [True, False]), only("down", True)]},
        },
    }


def nearswap(models: Models, n: int) -> Recipes:
    """NearSwap recipes, as above."""
    base, a, b, c = models
    steps = [only("mlp", [0, 0.05]), only("norm", 1), rest([0.01, 0.002])]
    return {
        "plain": {"models": [source(c)], "base_model": base, "parameters": {"t": 0.05}},
        "gradients and filters": {"models": [source(b)], "base_model": a, "parameters": {"t": steps}},
        "slices": {
            "base_model": base,
            "slices": [
                {"sources": [source(base, (1, n)), source(c, (0, n - 1))], "parameters": {"t": only("up", 0.1)}}
            ],
            "parameters": {"t": steps},
        },
    }


def arcee_fusion(models: Models, n: int) -> Recipes:
    """Arcee Fusion recipes, as above. They vary models and layers, because the method has no parameters."""
    base, a, b, c = models
    return {
        "plain": {"models": [source(c)], "base_model": base},
        "base among the models": {"models": [source(a), source(b)], "base_model": b},
        "slices": {"base_model": base, "slices": [{"sources": [source(c, (1, n)), source(base, (0, n - 1))]}]},
    }


def ram(models: Models, n: int) -> Recipes:
    """RAM recipes, as above."""
    base, a, b, c = models
    trio = {"models": [source(a), source(b), source(c)], "base_model": base}
    steps = [only("mlp", [0.001, 0.02]), only("norm", 0), rest(0.005)]
    return {
        "plain": trio,
        "large changes": {**trio, "parameters": {"epsilon": 0.01}},
        "gradients and filters": {**trio, "parameters": {"epsilon": steps}},
    }


def ramplus_tl(models: Models, n: int) -> Recipes:
    """RAM+ recipes, as above."""
    found = ram(models, n)
    strengths = {"r": [only("mlp", [0.5, -0.2]), rest(0.9)], "alpha": [only("attn", 0.1), rest([0.6, 2])]}
    found["gradients and filters"]["parameters"] |= strengths
    return {**found, "strong": {**found["plain"], "parameters": {"epsilon": 0.01, "r": 0.7, "alpha": 1.5}}}


MORE: dict[str, Callable[[Models, int], Recipes]] = {
    **{item.__name__: item for item in (nuslerp, multislerp, karcher, sce, model_stock, nearswap, arcee_fusion, ram)},
    **{"ramplus_tl": ramplus_tl, "dare_linear": dare, "dare_ties": dare, "della": della, "della_linear": della},
    **{"breadcrumbs": breadcrumbs, "breadcrumbs_ties": breadcrumbs},
}
MORE_CASES = [(method, label) for method, recipes in MORE.items() for label in recipes("0123", 4)]
"""The names of the recipes for each of these methods."""
