"""Adapters as people's programs save them: with wrappers in the names, one folder down, empty, or untrained."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llamas import write_adapter, write_model

import mergecore
from mergecore.errors import MergecoreError

Tensors = dict[str, torch.Tensor]
PREFIX = "base_model.model."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "base", 1)
    write_adapter(tmp_path / "adapter")
    return tmp_path


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def plan(folder: Path, adapter: str = "adapter") -> mergecore.Plan:
    made = mergecore.plan({"merge_method": "passthrough", "models": [{"model": f"{folder}/base+{folder}/{adapter}"}]})
    made.close()
    return made


def merged(folder: Path, out: str) -> Tensors:
    recipe = {"merge_method": "passthrough", "models": [{"model": f"{folder}/base+{folder}/adapter"}]}
    return load_file(mergecore.run(recipe, folder / out) / "model.safetensors")


NAMES: dict[str, Callable[[str], str]] = {
    "torch.compile": lambda key: f"_orig_mod.{key}",
    "torch.compile inside": lambda key: key.replace(PREFIX, f"{PREFIX}_orig_mod."),
    "data parallel": lambda key: f"module.{key}",
    "data parallel inside": lambda key: key.replace(PREFIX, f"{PREFIX}module."),
    "FSDP": lambda key: re.sub(r"layers\.(\d+)\.", r"_fsdp_wrapped_module.layers.\1._fsdp_wrapped_module.", key),
    "activation checkpointing": lambda key: re.sub(r"layers\.(\d)", r"layers.\1._checkpoint_wrapped_module", key),
    "wrapped twice by PEFT": lambda key: PREFIX + key,
    "no prefix": lambda key: key.removeprefix(PREFIX),
    "a default name": lambda key: key.replace(".weight", ".default.weight"),
    "a name": lambda key: key.replace(".weight", ".my_adapter.weight"),
}


@pytest.mark.parametrize("what", NAMES)
def test_wrappers_in_the_names_change_nothing(what: str, folder: Path) -> None:
    plain = merged(folder, "plain")
    rewrite(folder, lambda tensors: {NAMES[what](key): tensor for key, tensor in tensors.items()})
    found = merged(folder, "out")
    assert all(torch.equal(found[key], tensor) for key, tensor in plain.items())


def add(key: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, key: torch.ones(shape)}


WRONG: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "empty": (lambda tensors: {key: torch.empty(0) for key in tensors}, "is empty; DeepSpeed saved it"),
    "a head": (
        add(f"{PREFIX}score.weight", 2, 8),
        "has the head 'score' for the task SEQ_CLS, but .* is a LlamaForCausalLM",
    ),
    "two adapters": (
        lambda tensors: {key.replace(".weight", f".{n}.weight"): t.clone() for key, t in tensors.items() for n in "ab"},
        "contains several adapters: a, b; save each in its own folder",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_used_is_named(what: str, folder: Path) -> None:
    change, said = WRONG[what]
    rewrite(folder, change)
    file = folder / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "task_type": "SEQ_CLS"}))
    with pytest.raises(MergecoreError, match=said):
        plan(folder)


def test_an_adapter_one_folder_down_is_found(folder: Path) -> None:
    shutil.move(folder / "adapter", folder / "run" / "checkpoint-10")
    with pytest.raises(MergecoreError, match=r"contains checkpoint-10; add .*run/checkpoint-10"):
        plan(folder, "run")


def test_the_plan_says_by_how_much_the_base_changes(folder: Path) -> None:
    before, after = load_file(folder / "base" / "model.safetensors"), merged(folder, "out")
    name = next(key for key in before if not torch.equal(before[key], after[key]))
    share = (after[name] - before[name]).norm() / before[name].norm()
    (note,) = (note for note in plan(folder).notes if "of their norm" in note)
    assert f"by about {share:.2%} of their norm" in note


def test_an_untrained_adapter_is_reported(folder: Path) -> None:
    rewrite(folder, lambda tensors: {key: t * ("lora_A" in key) for key, t in tensors.items()})
    assert any("changes the base by 0.0%; was it saved before it was trained?" in note for note in plan(folder).notes)
