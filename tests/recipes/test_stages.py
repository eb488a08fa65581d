"""A recipe with stages is bitwise identical to running its stages one by one and writing each result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from method_recipes import CASES, RECIPES
from more_method_recipes import MORE, MORE_CASES
from own_models import MIXTURE, define, mixture, write
from stage_recipes import Recipe, apart, content, linear, replaced, ties
from tiny_llamas import write_model

import mergecore
from mergecore.api import Method
from mergecore.discovery.entry_points import find_plugin, load_plugin

LAYERS = "num_hidden_layers"


def check_same(recipes: Sequence[Recipe], root: Path) -> Path:
    """Run the recipes together and separately, compare, and return the folder of the combined run."""
    fused = mergecore.run(recipes, root / "fused")
    expected = apart(recipes, root)
    assert content(fused) == content(expected)
    return fused


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


def cases() -> list[Any]:
    """One recipe per type of method, preferably with slices. With --slow, all recipes."""
    seen, found = set(), []
    for method, label in sorted((*CASES, *MORE_CASES), key=lambda case: "slices" not in case[1]):
        item = load_plugin(find_plugin("methods", method))
        kind = (item.tile, item.measure is Method.measure, item.base)
        found.append(pytest.param(method, label, marks=[pytest.mark.slow] if kind in seen else []))
        seen.add(kind)
    return found


@pytest.mark.parametrize(("method", "label"), cases())
def test_every_method_between_two_other_stages(tmp_path: Path, method: str, label: str) -> None:
    models = [str(write_model(tmp_path / f"{n}", n, num_hidden_layers=3, dtype="bfloat16")) for n in range(4)]
    recipe = {"merge_method": method, **{**RECIPES, **MORE}[method](models, 3)[label]}
    plan = mergecore.plan(recipe)
    plan.close()
    deep = [str(write_model(tmp_path / f"deep-{n}", n, **{LAYERS: plan.config[LAYERS]})) for n in range(2)]
    first = {"name": "first", **linear(models[1], models[2]), "dtype": "float32"}
    check_same(
        [first, {"name": "second", **replaced(recipe, {models[1]: "first"})}, ties(deep[0], "second", deep[1])],
        tmp_path,
    )


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16", "float64"])
def test_a_stage_is_rounded_as_its_recipe_says(models: list[Path], tmp_path: Path, dtype: str | None) -> None:
    base, code, prose = (str(model) for model in models)
    stage = {"name": "mix", **linear(code, prose), **({"dtype": dtype} if dtype else {})}
    check_same([stage, ties(base, "mix", prose, dtype="bfloat16")], tmp_path)


def stack(*sources: tuple[Any, int, int]) -> Recipe:
    pieces = [{"sources": [{"model": model, "layer_range": [start, end]}]} for model, start, end in sources]
    return {"merge_method": "passthrough", "slices": pieces}


def chains(base: str, code: str, prose: str) -> dict[str, list[Recipe]]:
    """Recipes with several stages for three models with two layers."""
    mix = {"name": "mix", **linear(code, prose)}
    return {
        "a stage as base": [mix, ties("mix", base, code)],
        "a stage as base and source": [mix, {**linear("mix", prose), "base_model": "mix"}],
        "layers of a stage": [mix, stack(("mix", 1, 2), (base, 0, 2), ("mix", 0, 1))],
        "a stage of layers": [{"name": "deep", **stack((code, 0, 2), (prose, 1, 2))}, linear("deep", "deep")],
        "three levels": [
            {"name": "one", **ties(base, code, prose)},
            {"name": "two", **ties("one", code, prose), "dtype": "bfloat16"},
            {"name": "three", "merge_method": "karcher", "models": [{"model": m} for m in ("two", "one", prose)]},
            ties("one", "two", "three"),
        ],
        "a stage twice": [
            mix,
            {"name": "left", **ties(base, "mix")},
            {"name": "right", **linear("mix", base)},
            ties("mix", "left", "right"),
        ],
        "random numbers": [
            {"name": "x", "merge_method": "dare_ties", "base_model": base, "models": [{"model": code}], "seed": 7},
            {"merge_method": "dare_linear", "base_model": base, "models": [{"model": "x"}, {"model": code}], "seed": 3},
        ],
        "called like methods": [{"name": "linear", **linear(code, prose)}, linear("linear", base)],
        "later ones first": [{"name": "b", **linear("a", base)}, linear("b", "a"), {**mix, "name": "a"}],
        "all with names": [mix, {"name": "result", **linear("mix", base)}],
        "rows": [
            {"name": "stock", "merge_method": "model_stock", "base_model": base, "parameters": {"filter_wise": True},
             "models": [{"model": code}, {"model": prose}]},
            {"merge_method": "model_stock", "base_model": "stock", "models": [{"model": code}, {"model": prose}]},
        ],
    }  # fmt: skip


@pytest.mark.parametrize("label", chains("", "", ""))
def test_chains_of_stages(models: list[Path], tmp_path: Path, label: str) -> None:
    recipes = chains(*map(str, models))[label]
    if label == "later ones first":
        fused = mergecore.run(recipes, tmp_path / "fused")
        assert content(fused) == content(apart([recipes[2], recipes[0], recipes[1]], tmp_path))
    else:
        check_same(recipes, tmp_path)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("method", ["linear", "della_linear"])
def test_layouts_go_over_stages_as_over_files(tmp_path: Path, fused: bool, method: str) -> None:
    """Experts from a stage are fused or split as needed. DELLA computes whole rows."""
    own = {"architectures": [define(tmp_path, **MIXTURE)]}
    like, *others = (str(write(tmp_path / f"{n}", mixture(n, fused is (n == 0)))) for n in range(3))
    stage = {"merge_method": method, "models": [{"model": m, "parameters": {"weight": 0.3}} for m in others], **own}
    if method != "linear":
        stage |= {"base_model": others[0], "parameters": {"density": 0.5, "epsilon": 0.1}}
    check_same([{"name": "stage", **stage}, {**ties(like, "stage"), **own}], tmp_path)
