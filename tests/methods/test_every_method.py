"""Every installed method matches its formula in float64, and merging a model with itself does not change it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from method_formulae import FORMULAE
from method_recipes import CASES, largest_error
from more_method_recipes import MORE, MORE_CASES
from safetensors.torch import load_file
from tiny_models import Tiny, layers

import mergecore
from mergecore.api import Base, DeltaMethod, Method
from mergecore.discovery.entry_points import find_plugin, list_plugins, load_plugin

LIMIT = 2e-6
"""Tolerance relative to an element's expected magnitude or, if larger, the tensor's root mean square. If terms cancel,
the result keeps their rounding errors."""
FAMILY = "llama-tied"
METHODS = list(dict.fromkeys(plugin.name for plugin in list_plugins("methods")))

THINNED: list[dict[str, Any]] = [
    {},
    {"weight": 0.3, "density": 0.4, "rescale": True, "normalize": True, "lambda": 1.7},
]
SELF: dict[str, list[dict[str, Any]]] = {
    # For linear, only weights of one half are exact. Other weighted sums are rounded. It has no base.
    "linear": [{"weight": 0.5}, {"weight": 0.5, "normalize": False}],
    "slerp": [{"t": 0.25}, {"t": 1}],
    # Any scale other than 1 changes the model.
    "passthrough": [{}, {"scale": 1}],
    "nearswap": [{"t": 0.3}],
    "nuslerp": [{"weight": [0.3, 0.9]}, {"nuslerp_flatten": False}],
    "multislerp": [{"weight": [0.3, 0.9]}],
    "task_arithmetic": [{"weight": 0.3, "lambda": 1.7}, {"normalize": True}],
    "sce": [{}, {"select_topk": 0.4}],
    "model_stock": [{}, {"filter_wise": True}],
    "ties": THINNED,
    "breadcrumbs": THINNED,
    "breadcrumbs_ties": THINNED,
    "dare_linear": THINNED,
    "dare_ties": THINNED,
    "della": THINNED,
    "della_linear": THINNED,
}
"""Parameters for methods that need some, with reasons for exceptions."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("every-method"))


def test_no_installed_method_is_left_out() -> None:
    labels = [method for method, _ in (*CASES, *MORE_CASES)]
    assert set(METHODS) == set(labels) == set(FORMULAE)
    assert min(labels.count(method) for method in METHODS) >= 3


@pytest.mark.parametrize(("method", "label"), MORE_CASES, ids=lambda value: value.replace(" ", "-"))
def test_a_merge_equals_the_formula(tiny: Tiny, tmp_path: Path, method: str, label: str) -> None:
    recipe = MORE[method](tiny.all(FAMILY), layers(FAMILY))[label]
    assert largest_error({"merge_method": method, **recipe}, tmp_path / "out") < LIMIT


def copies(kind: type[Method], base: str | None) -> int:
    """How often to list the model: once as the base, which most methods do not count, and at most twice more."""
    low, high = kind.models
    return (high or max(low, 2)) + (base is not None and issubclass(kind, DeltaMethod))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_merged_with_itself_on_itself_is_the_same_bit_for_bit(
    tiny: Tiny, tmp_path: Path, method: str, dtype: str
) -> None:
    """Test with and without an optional base. The model contains no -0.0, because adding 0.0 to it results in 0.0."""
    model, kind = tiny(FAMILY, 1, dtype=dtype), load_plugin(find_plugin("methods", method))
    expected = load_file(Path(model, "model.safetensors"))
    bases = {Base.REQUIRED: [model], Base.OPTIONAL: [model, None], Base.INPUT: [None]}[kind.base]
    recipes = [(parameters, base) for parameters in SELF.get(method, [{}]) for base in bases]
    for number, (parameters, base) in enumerate(recipes):
        recipe = {"merge_method": method, "models": [{"model": model}] * copies(kind, base), "parameters": parameters}
        mergecore.run({**recipe, **({"base_model": base} if base else {})}, tmp_path / str(number))
        got = load_file(tmp_path / str(number) / "model.safetensors")
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert got[name].dtype == tensor.dtype == getattr(torch, dtype)
            assert torch.equal(got[name].view(torch.uint8), tensor.view(torch.uint8)), (name, parameters, base)
