"""A candidate merged in memory, reusing data from earlier ones, equals the output of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from mergecore_search.candidates import Maker
from mergecore_search.keeping import Kept
from safetensors.torch import load_file
from tiny_llamas import write_model

import mergecore
from mergecore.api import Base, WeightMethod
from mergecore.builtin.safetensors import SafetensorsReader
from mergecore.discovery.entry_points import find_plugin, list_plugins, load_plugin
from mergecore.discovery.parameters import declared
from mergecore.discovery.registry import Registry
from mergecore.documents import Place

THINNED = {"density": 0.6}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "arcee_fusion": ({}, {}),
    "breadcrumbs": ({**THINNED, "gamma": 0.1}, {**THINNED, "gamma": 0.1, "normalize": True}),
    "breadcrumbs_ties": ({**THINNED, "gamma": 0.1}, {**THINNED, "gamma": 0.2}),
    "dare_linear": (THINNED, {**THINNED, "lambda": 0.6}),
    "dare_ties": (THINNED, {**THINNED, "rescale": False}),
    "della": (THINNED, {**THINNED, "normalize": False}),
    "della_linear": (THINNED, {**THINNED, "epsilon": 0.05}),
    "karcher": ({}, {"max_iter": 2}),
    "linear": ({}, {"normalize": False}),
    "model_stock": ({}, {"filter_wise": True}),
    "multislerp": ({}, {"eps": 0.01}),
    "nearswap": ({"t": 0.3}, {"t": 0.8}),
    "nuslerp": ({}, {"nuslerp_flatten": False}),
    "passthrough": ({"scale": 0.7}, {"scale": 0.5}),
    "ram": ({}, {"epsilon": 0.3}),
    "ramplus_tl": ({}, {"r": 0.5}),
    "sce": ({"select_topk": 0.5}, {"select_topk": 0.8}),
    "slerp": ({"t": 0.3}, {"t": 0.8}),
    "task_arithmetic": ({}, {"lambda": 0.6}),
    "ties": (THINNED, {**THINNED, "lambda": 0.6}),
}
"""Two settings for each method. The first is tried again after the second."""


@pytest.fixture
def maker() -> Iterator[Maker]:
    made = Maker(Registry(print), 2**28, 2, pytest.fail)
    yield made
    made.close()


def sources(models: Sequence[Any], weights: Sequence[float] = (1.0, 0.5)) -> list[dict[str, Any]]:
    """Return models, or stages in their place, as listed in a recipe."""
    named = [{"model": str(model)} if isinstance(model, Path) else {"model": model} for model in models]
    return [{**entry, "parameters": {"weight": weight}} for entry, weight in zip(named, weights)]


def assert_as_run(maker: Maker, recipe: dict[str, Any], out: Path) -> None:
    """Check that a recipe's candidate is bit-identical to the output of a run."""
    recipe = {"dtype": "bfloat16", **recipe}
    mergecore.run(recipe, out)
    with maker.candidate(Place(recipe), "candidate") as subject:
        found = dict(subject.model.named_parameters())
        for name, tensor in load_file(out / "model.safetensors").items():
            assert torch.equal(found[name], tensor.float()), (out.name, name)


@pytest.mark.parametrize("method", [plugin.name for plugin in list_plugins("methods")])
def test_candidates_of_every_method_are_what_runs_write(
    maker: Maker, three: list[Path], tmp_path: Path, method: str
) -> None:
    kind, (first, second) = load_plugin(find_plugin("methods", method)), SETTINGS[method]
    based = kind.base is Base.REQUIRED
    models = three[1 : 1 + (kind.models[1] or 2) - (based and issubclass(kind, WeightMethod))]
    for number, (weights, given) in enumerate(zip(((0.2, 0.9), (1.0, 0.5), (0.2, 0.9)), (first, second, first))):
        listing = sources(models, weights) if "weight" in declared(kind) else [{"model": str(m)} for m in models]
        recipe = {"merge_method": method, "models": listing, "parameters": given, "seed": 3}
        recipe |= {"base_model": str(three[0])} if based else {}
        assert_as_run(maker, recipe, tmp_path / str(number))


def test_what_is_kept_is_taken_for_nothing_else(maker: Maker, three: list[Path], tmp_path: Path) -> None:
    base, one, two = three
    other = write_model(tmp_path / "other", 5)
    ties = {"merge_method": "ties", "base_model": str(base), "parameters": {"density": 0.4}}
    stage = {"merge_method": "linear", "models": sources((one, two), (0.2, 0.8))}
    changed = {"merge_method": "linear", "models": sources((one, two), (0.6, 0.4))}
    recipes: dict[str, dict[str, Any]] = {
        "first": {**ties, "models": sources((one, two))},
        "other weights": {**ties, "models": sources((one, two), (0.3, 0.3))},
        "another model": {**ties, "models": sources((one, other))},
        "another order": {**ties, "models": sources((other, one))},
        "another base": {**ties, "base_model": str(two), "models": sources((one, other))},
        "a stage": {**ties, "models": sources((stage, two))},
        "a changed stage": {**ties, "models": sources((changed, two))},
        "another density": {**ties, "models": sources((one, two)), "parameters": {"density": 0.7}},
        "another method": {**ties, "merge_method": "dare_ties", "models": sources((one, two))},
        "another seed": {**ties, "merge_method": "dare_ties", "models": sources((one, two)), "seed": 1},
        "the first again": {**ties, "models": sources((one, two))},
    }
    for number, (label, recipe) in enumerate(recipes.items()):
        assert_as_run(maker, recipe, tmp_path / f"{number} {label}")
    (one / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    assert_as_run(maker, recipes["first"], tmp_path / "a model that changed")


@pytest.mark.parametrize(
    ("density", "reading"), [((0.4, 0.4, 0.4), (True, False, False)), ((0.4, 0.5, 0.6), (True, True, False))]
)
def test_no_weight_is_read_twice(
    maker: Maker,
    three: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    density: Sequence[float],
    reading: Sequence[bool],
) -> None:
    """Thinned task vectors are kept while all candidates thin in the same way, and whole ones after that."""
    read, seen = SafetensorsReader.read_bytes, []
    monkeypatch.setattr(SafetensorsReader, "read_bytes", lambda *arguments: (seen.append(1), read(*arguments)))
    for number, value in enumerate(density):
        seen.clear()
        recipe = {"merge_method": "ties", "base_model": str(three[0]), "parameters": {"density": value}}
        with maker.candidate(Place({**recipe, "models": sources(three[1:], (0.1 * number, 1.0))}), "candidate"):
            assert bool(seen) == reading[number], number


def test_what_changes_every_time_is_not_kept(maker: Maker, three: list[Path]) -> None:
    held = []
    for models in (three[:2], three, three[1:]):
        with maker.candidate(Place({"merge_method": "linear", "models": sources(models, (1.0,) * 3)}), "candidate"):
            held.append(maker.kept.held)
    assert held[0] > held[1] == held[2] == 0


def test_no_more_is_kept_than_there_is_room_for() -> None:
    kept, made = Kept(), []

    def get(place: str, key: int) -> list[torch.Tensor]:
        return kept.get(place, key, lambda: made.append(place) or [torch.zeros(10)])  # 40 bytes

    kept.limit(100)
    for place in ("a", "b", "c", "a", "b", "c"):
        get(place, 0)
    assert made == ["a", "b", "c", "c"]
    get("a", 1)  # replaces the old one
    get("a", 1)
    assert made == ["a", "b", "c", "c", "a"]
    kept.limit(50)
    get("b", 0)
    get("a", 1)
    get("b", 0)
    assert made == ["a", "b", "c", "c", "a", "b", "a"]
