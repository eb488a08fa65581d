"""A note on configs that differ names what differs in meaning, with both values, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_llamas import write_model

import mergecore

ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "scaled": (
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
    ),
    "partial": (
        {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "by type of layer": (
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ),
    "in a part": (
        {"text_config": {"rope_theta": 5e5, "dtype": "float32"}},
        {"text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "torch_dtype": "bfloat16"}},
    ),
    "empty keys": ({"quantization": None, "attention_bias": False}, {}),
}


def notes(tmp_path: Path, *configs: dict[str, Any]) -> list[str]:
    models = [write_model(tmp_path / str(seed), seed, **config) for seed, config in enumerate(configs)]
    items = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    plan = mergecore.plan({"merge_method": "linear", "models": items})
    plan.close()
    return [note.replace(f"{tmp_path}/", "") for note in plan.notes if "config differs" in note]


@pytest.mark.parametrize("what", ALIKE)
@pytest.mark.parametrize("step", [1, -1])
def test_the_same_in_other_words_is_no_difference(what: str, step: int, tmp_path: Path) -> None:
    assert notes(tmp_path, *ALIKE[what][::step]) == []


def test_a_difference_is_reported_with_both_values(tmp_path: Path) -> None:
    other = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "hidden_act": "gelu", "mlp_bias": True}
    said = 'hidden_act ("gelu", not "silu"), rope_theta (500000.0, not 10000.0), mlp_bias (true, not set there)'
    found = notes(tmp_path, {"rope_theta": 1e4, "hidden_act": "silu"}, other)
    assert found == [f"1: config differs in {said}; using that of 0"]
