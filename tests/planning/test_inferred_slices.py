"""Slices of model classes that nobody has described: settings of layers follow the layers, or the recipe is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model

import mergecore
from mergecore.errors import MergecoreError


def odd(folder: Path, kinds: str, extra: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    """A model of an unknown class. Layers of kind ``a`` have attention, and those of kind ``m`` do not."""
    write_model(folder, 1, architectures=["OddForCausalLM"], num_hidden_layers=len(kinds), **config)
    tensors = load_file(folder / "model.safetensors")
    for number, kind in enumerate(kinds):
        prefix = f"model.layers.{number}."
        tensors[f"{prefix}mark"] = torch.full((3,), float(number))
        if kind == "m":
            tensors = {n: t for n, t in tensors.items() if not n.startswith(f"{prefix}self_attn")}
    save_file({**tensors, **(extra or {})}, folder / "model.safetensors", {"format": "pt"})
    return folder


def sliced(model: Path, spans: Sequence[tuple[int, int]]) -> dict[str, Any]:
    slices = [{"sources": [{"model": str(model), "layer_range": list(span)}]} for span in spans]
    plan = mergecore.plan({"merge_method": "passthrough", "slices": slices})
    plan.close()
    return dict(plan.config)


PER_LAYER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a pattern string": ({"hybrid_override_pattern": "a*mm"}, {"hybrid_override_pattern": "m*a"}),
    "a list of sizes": ({"intermediate_size": [16, 17, 18, 19]}, {"intermediate_size": [19, 17, 16]}),
    "a list of settings": (
        {"block_configs": [{"n": n} for n in range(4)]},
        {"block_configs": [{"n": 3}, {"n": 1}, {"n": 0}]},
    ),
    "a mapping by number": ({"overrides": {str(n): n * n for n in range(4)}}, {"overrides": {"0": 9, "1": 1, "2": 0}}),
    "other strings and lists": (
        {"eos_token_id": [1, 2, 3, 4], "name": "aamm"},
        {"eos_token_id": [1, 2, 3, 4], "name": "aamm"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PER_LAYER)
def test_settings_of_layers_follow_the_layers(what: str, tmp_path: Path) -> None:
    given, expected = PER_LAYER[what]
    config = sliced(odd(tmp_path / "odd", "aaaa", **given), [(3, 4), (1, 2), (0, 1)])
    assert {key: config[key] for key in expected} == expected and config["num_hidden_layers"] == 3


@pytest.mark.parametrize(
    ("key", "value", "cut"),
    [
        ("layers_block_type", ["attention", "mamba", "attention", "moe"], ["moe", "mamba"]),
        ("hybrid_override_pattern", "*M*E", "EM"),
    ],
)
def test_a_list_of_layer_types_replaces_a_count(key: str, value: Any, cut: Any, tmp_path: Path) -> None:
    model = odd(tmp_path / "odd", "aaaa", **{key: value})
    path = model / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "num_hidden_layers"}))
    config = sliced(model, [(3, 4), (1, 2)])
    assert config[key] == cut and "num_hidden_layers" not in config


@pytest.mark.parametrize("key", ["attn_layer_indices", "where_it_looks", "mixers"])
def test_layer_numbers_are_renumbered_if_they_fit_the_weights(key: str, tmp_path: Path) -> None:
    spans = [(1, 4), (0, 2)]
    listed = {"where_it_looks": [0, 2], "attn_layer_indices": [0, 2], "mixers": [1, 3]}[key]
    config = sliced(odd(tmp_path / "odd", "amam", **{key: listed}), spans)  # m a m a m
    assert config[key] == ([1, 3] if key != "mixers" else [0, 2, 4])
    other = odd(tmp_path / "other", "aaaa", **{key: [0, 2]})  # nothing says that these are layers
    assert sliced(other, spans)[key] == [0, 2]


@pytest.mark.parametrize(
    ("kinds", "spans", "words"),
    [
        ("amam", [(0, 3), (0, 1)], "layer 0 would become layer 3, which has different weights"),
        ("aamm", [(0, 4), (0, 1)], "layer 0 would become layer 4, which has different weights"),
        ("ammm", [(0, 4), (0, 4)], "layer 0 would become layer 4, which has different weights"),
        ("ammm", [(0, 4), (1, 4)], ""),
        ("mmma", [(0, 4), (3, 4)], "layer 3 would become layer 4, which has different weights"),
        ("mmma", [(0, 4), (0, 4)], ""),
        ("amam", [(0, 4), (1, 2)], "layer 1 would become layer 4, which has different weights"),
        ("amam", [(0, 4), (0, 2)], ""),
        ("aaaa", [(0, 4), (3, 4)], ""),
    ],
)
@pytest.mark.parametrize("cut", [True, False])
def test_a_layer_takes_a_place_of_its_own_type_also_beyond_the_end(
    kinds: str, spans: list[tuple[int, int]], words: str, cut: bool, tmp_path: Path
) -> None:
    lists = {"layer_scales": [1, 1, 1, 1]} if cut else {}  # a list that is cut, but says nothing about the types
    model = odd(tmp_path / "odd", kinds, **lists)
    if words:
        with pytest.raises(MergecoreError, match=words):
            sliced(model, spans)
    else:
        assert sliced(model, spans)["num_hidden_layers"] == sum(end - start for start, end in spans)


def test_a_list_that_tells_the_types_frees_the_layers(tmp_path: Path) -> None:
    model = odd(tmp_path / "odd", "aamm", layer_kinds=["x", "x", "y", "y"])
    assert sliced(model, [(2, 4), (0, 1), (3, 4), (0, 2)])["layer_kinds"] == ["y", "y", "x", "y", "x", "x"]


@pytest.mark.parametrize("how", ["by its name", "by the config"])
def test_a_weight_with_a_part_for_each_layer_is_refused(how: str, tmp_path: Path) -> None:
    name = "model.embed_tokens_per_layer.weight" if how == "by its name" else "model.embed_more.weight"
    config = {} if how == "by its name" else {"hidden_size_per_layer_input": 5}
    model = odd(tmp_path / "odd", "aaaa", {name: torch.zeros(12, 20)}, **config)
    with pytest.raises(MergecoreError, match=rf"'{name}' \[12, 20\] has a part for each of the 4 layers"):
        sliced(model, [(0, 2)])
    assert sliced(model, [(0, 4)])["num_hidden_layers"] == 4
    assert json.loads((model / "config.json").read_text())["num_hidden_layers"] == 4
