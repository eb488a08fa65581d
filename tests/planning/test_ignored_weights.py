"""Weights that a class ignores when it loads a model can be missing in some models, whichever model comes first."""

from __future__ import annotations

import itertools
import json
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
    write_model(folder, seed, **{"architectures": ["OddForCausalLM"], **config})
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


PREDICTION = {
    "eh_proj.weight": (HIDDEN, 2 * HIDDEN),
    "enorm.weight": (HIDDEN,),
    "shared_head.head.weight": (12, HIDDEN),
}


def with_prediction_layer(folder: Path, seed: int, name: str) -> str:
    """A model with one more layer that the config does not count, as GLM-4.5 and DeepSeek-V3 are published."""
    path = Path(odd(folder, seed, {}, architectures=[name], num_hidden_layers=3))
    tensors = load_file(path / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    more = {f"model.layers.2.{key}": torch.randn(shape, generator=generator) for key, shape in PREDICTION.items()}
    save_file({**tensors, **more}, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2, "num_nextn_predict_layers": 1}))
    return str(path)


@pytest.mark.parametrize("name", ["OddForCausalLM", "AnotherMoeForCausalLM"])
@pytest.mark.parametrize("said", [{}, {"num_nextn_predict_layers": 1}])
def test_a_prediction_layer_comes_from_the_model_that_has_it(said: dict[str, int], name: str, tmp_path: Path) -> None:
    """The config of a fine-tune can keep the number of layers that transformers did not save."""
    whole = with_prediction_layer(tmp_path / "whole", 1, name)
    tuned = odd(tmp_path / "tuned", 2, {}, architectures=[name], **said)
    given = load_file(Path(whole) / "model.safetensors")
    for number, (first, second) in enumerate(itertools.permutations((whole, tuned))):
        recipe = {"merge_method": "task_arithmetic", "base_model": first, "models": [{"model": second}]}
        recipe["parameters"] = {"weight": 0.5}
        plan = mergecore.plan(recipe)
        plan.close()
        assert any(f"for multi-token prediction and only in {whole}: copied" in note for note in plan.notes), plan.notes
        out = mergecore.run(recipe, tmp_path / f"out-{number}")
        result = load_file(out / "model.safetensors")
        assert result.keys() == given.keys()
        for key, tensor in given.items():
            assert torch.equal(result[key], tensor) is (".layers.2." in key), key
        config = json.loads((out / "config.json").read_text())
        assert (config["num_hidden_layers"], config["num_nextn_predict_layers"]) == (2, 1)


def test_a_prediction_layer_that_cannot_be_merged_is_left_out(tmp_path: Path) -> None:
    models = [with_prediction_layer(tmp_path / f"whole-{seed}", seed, "OddForCausalLM") for seed in (1, 2)]
    tuned = odd(tmp_path / "tuned", 3, {})
    recipe = {"merge_method": "task_arithmetic", "base_model": tuned, "models": [{"model": m} for m in models]}
    recipe["parameters"] = {"weight": 0.5}
    plan = mergecore.plan(recipe)
    plan.close()
    assert not [name for name in plan.tensors if ".layers.2." in name]
    assert not plan.config.get("num_nextn_predict_layers")
    assert any("left out of the result" in note for note in plan.notes)


def test_slices_with_a_prediction_layer_name_it(tmp_path: Path) -> None:
    whole, tuned = with_prediction_layer(tmp_path / "whole", 1, "OddForCausalLM"), odd(tmp_path / "tuned", 2, {})
    sources = [{"model": whole, "layer_range": [0, 3]}, {"model": tuned, "layer_range": [0, 2]}]
    with pytest.raises(MergecoreError, match=r"whole: 3 \(1 of them for multi-token prediction\), .*tuned: 2"):
        mergecore.plan({"merge_method": "linear", "slices": [{"sources": sources}], "parameters": {"weight": 1}})
