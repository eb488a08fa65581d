"""Merges with every method on every architecture match an independent computation, load, and are deterministic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import float64_oracle
import pytest
import torch
from executed_tensors import made_by
from method_recipes import CASES, RECIPES, check_loads, largest_error, recipe_of, source
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, Tiny, layers
from torch import Tensor

import mergecore
from mergecore.builtin.threads import ThreadsExecutor

LIMIT = 2e-6
"""Tolerance relative to an element's expected magnitude or, if larger, the tensor's root mean square."""
WIDE = {"vocab_size": 1500}
"""A vocabulary size for an embedding of 36,000 elements, which is more than two of the smallest tiles."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def tensors(folder: Path | str) -> dict[str, Tensor]:
    return {name: item for file in sorted(Path(folder).glob("*.safetensors")) for name, item in load_file(file).items()}


def config_of(folder: Path | str) -> dict[str, Any]:
    return json.loads(Path(folder, "config.json").read_text())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return True if names, dtypes, shapes, and all bits are equal."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(one[name].flatten().view(torch.uint8), other[name].flatten().view(torch.uint8))
        for name in one
    )


def rewritten(model: str, folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> str:
    """Copy a checkpoint with changed tensors."""
    folder.mkdir()
    (folder / "config.json").write_text(Path(model, "config.json").read_text())
    save_file(change(tensors(model)), folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize(("method", "label"), CASES, ids=lambda value: value.replace(" ", "-"))
@pytest.mark.parametrize("family", [family for family in FAMILIES if "tied" not in family])
def test_merge_equals_the_formula_and_loads(tiny: Tiny, tmp_path: Path, family: str, method: str, label: str) -> None:
    made = recipe_of(method, label, tiny.all(family), layers(family))
    assert largest_error(made, tmp_path / "out") < LIMIT
    check_loads(tmp_path / "out")


@pytest.mark.parametrize("family", [family for family in FAMILIES if "tied" in family])
def test_models_with_tied_heads_stay_tied(tiny: Tiny, tmp_path: Path, family: str) -> None:
    out = tmp_path / "out"
    assert largest_error(recipe_of("ties", "slices", tiny.all(family), layers(family)), out) < LIMIT
    assert not {"lm_head.weight", "embed_out.weight"} & set(tensors(out))
    assert config_of(out)["tie_word_embeddings"] is True
    check_loads(out)


@pytest.mark.parametrize("family", ["llama-tied", "gpt_neox-tied", "phi-tied"])
def test_a_tied_head_is_merged_as_its_embedding_where_another_model_has_a_head(
    tiny: Tiny, tmp_path: Path, family: str
) -> None:
    models = [tiny(family, 1), tiny(family, 2, tie_word_embeddings=False)]
    mixed = {"merge_method": "slerp", "models": [source(models[1])], "base_model": models[0], "parameters": {"t": 0.3}}
    assert largest_error(mixed, tmp_path / "out") < LIMIT
    assert {"lm_head.weight", "embed_out.weight"} & set(tensors(tmp_path / "out"))
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is False
    check_loads(tmp_path / "out")


def test_gradients_go_over_the_layers_and_stay_at_their_start_outside(tiny: Tiny, tmp_path: Path) -> None:
    model, out = tiny("llama"), tmp_path / "out"
    mergecore.run({"merge_method": "passthrough", "models": [source(model, scale=[1, 2, 4])]}, out)
    before, after = float64_oracle.read(model), float64_oracle.read(out)
    factors = {name: float((after[name] / before[name]).mean()) for name in before}
    for layer, factor in enumerate([1, 5 / 3, 8 / 3, 4]):
        assert factors[f"model.layers.{layer}.mlp.up_proj.weight"] == pytest.approx(factor)
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert factors[name] == 1


@pytest.mark.parametrize(("family", "buffers"), [
    ("llama", {"self_attn.rotary_emb.inv_freq": torch.linspace(0.1, 1, 4)}),
    ("mistral", {"self_attn.rotary_emb.inv_freq": torch.linspace(0.1, 1, 4)}),
    ("gpt_neox", {
        "attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool).tril(),
        "attention.masked_bias": torch.tensor(-1e9),
        "attention.rotary_emb.inv_freq": torch.linspace(0.1, 1, 4),
    }),
])  # fmt: skip
def test_buffers_of_old_checkpoints_are_kept_and_load(
    tiny: Tiny, tmp_path: Path, family: str, buffers: dict[str, Tensor]
) -> None:
    def with_buffers(stored: dict[str, Tensor]) -> dict[str, Tensor]:
        prefixes = [name.removesuffix("input_layernorm.weight") for name in stored if "input_layernorm.w" in name]
        return {**stored, **{prefix + name: value.clone() for prefix in prefixes for name, value in buffers.items()}}

    folders = [rewritten(tiny(family, number), tmp_path / str(number), with_buffers) for number in (0, 1)]
    models = [source(folder, weight=0.5) for folder in folders]
    mergecore.run({"merge_method": "linear", "models": models}, tmp_path / "out")
    before, after = tensors(folders[0]), tensors(tmp_path / "out")
    added = before.keys() - tensors(tiny(family)).keys()
    assert len(added) == len(buffers) * layers(family)
    assert same({name: before[name] for name in added}, {name: after[name] for name in added})
    check_loads(tmp_path / "out")


def test_qwen_of_the_first_generation_is_known(tmp_path: Path) -> None:
    config = {"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "num_hidden_layers": 2}
    parts = ["ln_1.weight", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "ln_2.weight"]
    parts += ["mlp.w1.weight", "mlp.w2.weight", "mlp.c_proj.weight"]
    names = ["transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight"]
    names += [f"transformer.h.{layer}.{part}" for layer in (0, 1) for part in parts]
    for number in (0, 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        save_file({name: torch.randn(4, 3) for name in names}, folder / "model.safetensors")
    pieces = [{"sources": [source(str(tmp_path / number), (0, 2), scale=[1, 2])]} for number in "01"]
    assert largest_error({"merge_method": "passthrough", "slices": pieces}, tmp_path / "out") < LIMIT


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_slices_cut_the_list_of_layer_types(tiny: Tiny, tmp_path: Path, family: str) -> None:
    model, n = tiny(family), layers(family)
    pieces = [{"sources": [source(model, span)]} for span in [(n - 1, n), (0, n), (n - 1, n)]]
    mergecore.run({"merge_method": "passthrough", "slices": pieces}, tmp_path / "out")
    kinds = config_of(model)["layer_types"]
    assert len(set(kinds)) == 2
    assert config_of(tmp_path / "out")["layer_types"] == [kinds[-1], *kinds, kinds[-1]]


@pytest.mark.parametrize("method", RECIPES)
def test_shards_change_no_byte_and_load(tiny: Tiny, tmp_path: Path, method: str) -> None:
    whole = recipe_of(method, "gradients and filters", tiny.all("phi"), layers("phi"))
    parts = recipe_of(method, "gradients and filters", tiny.all("phi", shard="20KB"), layers("phi"))
    mergecore.run(whole, tmp_path / "whole")
    mergecore.run(parts, tmp_path / "parts", shard_bytes=15_000)
    assert len(list(Path(tiny("phi", shard="20KB")).glob("*.safetensors"))) > 1
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert same(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    check_loads(tmp_path / "parts")


@pytest.mark.parametrize("method", RECIPES)
def test_bfloat16_is_rounded_once_at_the_end(tiny: Tiny, tmp_path: Path, method: str) -> None:
    made = recipe_of(method, "gradients and filters", tiny.all("mistral", dtype="bfloat16"), layers("mistral"))
    mergecore.run(made, tmp_path / "half")
    mergecore.run({**made, "dtype": "float32"}, tmp_path / "float")
    half, expected = tensors(tmp_path / "half"), float64_oracle.merge(made)
    assert {item.dtype for item in half.values()} == {torch.bfloat16}
    for name, exact in float64_oracle.read(tmp_path / "float").items():
        assert float64_oracle.error(exact, expected[name]) < LIMIT
        assert torch.equal(half[name], torch.from_numpy(exact).float().bfloat16())
    check_loads(tmp_path / "half")


@pytest.mark.parametrize("method", RECIPES)
def test_tiles_and_threads_change_no_byte(tiny: Tiny, method: str) -> None:
    made = recipe_of(method, "gradients and filters", tiny.all("llama", **WIDE), layers("llama"))
    expected = made_by(ThreadsExecutor(tile_elements=2**20), 1, made)
    assert max(item.numel() for item in expected.values()) > 2**15
    for tile in (2**14, 2**20):
        for workers in (1, 2, 4):
            assert same(made_by(ThreadsExecutor(tile_elements=tile), workers, made), expected)


@pytest.mark.parametrize("tile", [2**14, 2**20])
def test_of_equal_magnitudes_the_first_are_kept_whatever_the_tiles(tiny: Tiny, tmp_path: Path, tile: int) -> None:
    def coarse(stored: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: (item * 16).round() / 16 for name, item in stored.items()}  # few distinct differences

    base, other = (rewritten(tiny("llama", n, **WIDE), tmp_path / str(n), coarse) for n in (0, 3))
    made = {"merge_method": "ties", "models": [source(other)], "base_model": base, "parameters": {"density": 0.1}}
    expected = float64_oracle.merge(made)
    for name, got in made_by(ThreadsExecutor(tile_elements=tile), 1, made).items():
        assert torch.equal(got.double(), torch.from_numpy(expected[name]).flatten())


def test_hash_seeds_change_no_byte(tiny: Tiny, tmp_path: Path) -> None:
    text = json.dumps(recipe_of("ties", "slices", tiny.all("qwen2"), layers("qwen2")))
    (tmp_path / "recipe.yml").write_text(text)
    running = []
    for seed in ("0", "1"):
        command = [sys.executable, "-m", "mergecore", "run", str(tmp_path / "recipe.yml"), str(tmp_path / seed / "out")]
        running.append(subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": seed}, stderr=subprocess.DEVNULL))
    assert [process.wait() for process in running] == [0, 0]
    folders = [{path.name: path.read_bytes() for path in (tmp_path / seed / "out").iterdir()} for seed in ("0", "1")]
    assert folders[0] == folders[1]
