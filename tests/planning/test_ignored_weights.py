"""Weights that a class ignores when it loads a model can be missing in some models, whichever model comes first."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llamas import HIDDEN, write_model

import mergecore
from mergecore.errors import MergecoreError

EXTRA: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "a prediction layer": ({"mtp.fc.weight": (8, 16), "mtp.layers.0.mlp.up_proj.weight": (16, 8)}, {}),
    "a nested prediction layer": ({"model.nextn.proj.weight": (8, 8)}, {}),
    "keys of layers that share them": (
        {"model.layers.1.self_attn.k_norm.weight": (4,), "model.layers.0.self_attn.k_norm.weight": (4,)},
        {"num_kv_shared_layers": 1},
    ),
    "a computed buffer": ({"model.layers.0.self_attn.rotary_emb.inv_freq": (2,)}, {}),
}


def odd(folder: Path, seed: int, extra: dict[str, tuple[int, ...]], **config: Any) -> str:
    write_model(folder, seed, architectures=["OddForCausalLM"], **config)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name: torch.randn(shape, generator=generator) for name, shape in extra.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def merged(out: Path, recipe: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(mergecore.run(recipe, out) / "model.safetensors")


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic"])
@pytest.mark.parametrize("what", EXTRA)
def test_they_come_from_the_model_that_has_them_in_any_order(what: str, method: str, tmp_path: Path) -> None:
    extra, config = EXTRA[what]
    whole, tuned = odd(tmp_path / "whole", 1, extra, **config), odd(tmp_path / "tuned", 2, {}, **config)
    results = []
    for number, (first, second) in enumerate(itertools.permutations((whole, tuned))):
        recipe: dict[str, Any] = {"merge_method": method, "parameters": {"weight": 0.5, "t": 0.5}}
        del recipe["parameters"]["t" if method != "slerp" else "weight"]
        recipe["models"] = [{"model": first}, {"model": second}]
        if method != "linear":
            recipe["base_model"] = first
        plan = mergecore.plan(recipe)
        plan.close()
        assert any("merged from the models that have them" in note for note in plan.notes), plan.notes
        results.append(merged(tmp_path / f"out-{number}", recipe))
    assert results[0].keys() == results[1].keys()
    given = load_file(tmp_path / "whole" / "model.safetensors")
    for name in extra:
        assert all(torch.equal(result[name], given[name]) for result in results), name


def test_what_several_have_but_the_base_does_not_is_left_out_with_a_note(tmp_path: Path) -> None:
    extra, _ = EXTRA["a prediction layer"]
    models = [odd(tmp_path / f"whole-{seed}", seed, extra) for seed in (1, 2)]
    tuned = odd(tmp_path / "tuned", 3, {})
    recipe = {"merge_method": "task_arithmetic", "base_model": tuned, "models": [{"model": m} for m in models]}
    plan = mergecore.plan(recipe)
    plan.close()
    assert not [name for name in plan.tensors if name.startswith("mtp.")]
    assert any("OddForCausalLM ignores 'mtp.fc.weight' and 1 more" in note for note in plan.notes)


def test_any_other_weight_that_is_missing_is_refused(tmp_path: Path) -> None:
    whole, tuned = odd(tmp_path / "whole", 1, {"model.more.weight": (HIDDEN,)}), odd(tmp_path / "tuned", 2, {})
    for models in itertools.permutations((whole, tuned)):
        with pytest.raises(MergecoreError, match=r"model\.more\.weight"):
            mergecore.plan(
                {"merge_method": "linear", "models": [{"model": m} for m in models], "parameters": {"weight": 1}}
            )
