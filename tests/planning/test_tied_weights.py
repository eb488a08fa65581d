"""A weight that the config ties to another is one weight, whether or not the files contain a copy of it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model

import mergecore
from mergecore.errors import MergecoreError

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Tensors = dict[str, torch.Tensor]


def rewrite(folder: Path, change: Callable[[Tensors], object], suffix: str = "safetensors") -> None:
    """Change the tensors of a model, and store them in another format if the suffix differs."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    if suffix == "bin":
        file.unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, file, {"format": "pt"})


def settings(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def copy_head(tensors: Tensors) -> None:
    tensors[HEAD] = tensors[EMBEDDING]


def only_head(tensors: Tensors) -> None:
    tensors[HEAD] = tensors.pop(EMBEDDING)


STORED: dict[str, tuple[Callable[[Tensors], object], str, Callable[[dict[str, Any]], object]]] = {
    "a copy": (copy_head, "safetensors", lambda config: None),
    "a copy in a .bin file": (copy_head, "bin", lambda config: None),
    "the head alone": (only_head, "safetensors", lambda config: None),
    "a copy, and a config of transformers 4 without the key": (
        copy_head,
        "safetensors",
        lambda config: config.pop("tie_word_embeddings"),
    ),
}


@pytest.mark.parametrize("base_too", [False, True])
@pytest.mark.parametrize("how", STORED)
def test_a_stored_copy_changes_nothing(how: str, base_too: bool, tmp_path: Path) -> None:
    change, suffix, configured = STORED[how]
    base, tuned = (write_model(tmp_path / name, seed, tie_word_embeddings=True) for name, seed in (("b", 1), ("t", 2)))
    recipe = {
        "merge_method": "dare_linear",
        "base_model": str(base),
        "models": [{"model": str(tuned), "parameters": {"weight": 1, "density": 0.5}}],
    }
    plain = load_file(mergecore.run(recipe, tmp_path / "plain") / "model.safetensors")
    for folder in (tuned, base)[: 1 + base_too]:
        rewrite(folder, change, suffix)
        settings(folder, configured)
    out = mergecore.run(recipe, tmp_path / "out")
    merged = load_file(out / "model.safetensors")
    assert merged.keys() == plain.keys() and HEAD not in merged
    assert all(torch.equal(merged[name], tensor) for name, tensor in plain.items())
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True
    model, info = transformers.LlamaForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and torch.equal(model.lm_head.weight, merged[EMBEDDING])


def test_gpt2_with_its_head(tmp_path: Path) -> None:
    """The class ties the weights, and configs of transformers 4 do not say so."""
    config = transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    for seed, name in enumerate(("base", "tuned")):
        torch.manual_seed(seed)
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / name)
        settings(tmp_path / name, lambda config: config.pop("tie_word_embeddings", None))
    rewrite(tmp_path / "tuned", lambda tensors: tensors.update({HEAD: tensors["transformer.wte.weight"]}))
    out = mergecore.run(
        {
            "merge_method": "dare_ties",
            "base_model": str(tmp_path / "base"),
            "models": [{"model": str(tmp_path / "tuned"), "parameters": {"weight": 1, "density": 0.5}}],
        },
        tmp_path / "out",
    )
    model = transformers.GPT2LMHeadModel.from_pretrained(out)
    assert torch.equal(model.lm_head.weight, model.transformer.wte.weight)
    assert torch.equal(model.lm_head.weight, load_file(out / "model.safetensors")["transformer.wte.weight"])


def average(tmp_path: Path, *names: str) -> Tensors:
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in names]
    return load_file(
        mergecore.run({"merge_method": "linear", "models": models}, tmp_path / "out") / "model.safetensors"
    )


@pytest.mark.parametrize("tied", [True, False])
def test_a_separate_head_stays(tied: bool, tmp_path: Path) -> None:
    """The head differs although the config ties it, or it is equal although the config says that it is separate."""
    for seed, name in enumerate(("one", "two")):
        write_model(tmp_path / name, seed, tie_word_embeddings=tied)
        rewrite(tmp_path / name, lambda t: t.update({HEAD: t[EMBEDDING] + tied}))
    merged = average(tmp_path, "one", "two")
    assert torch.allclose(merged[HEAD], merged[EMBEDDING] + tied, atol=1e-6)


def test_a_head_that_differs_is_reported(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        write_model(tmp_path / name, seed, tie_word_embeddings=True)
        rewrite(tmp_path / name, lambda t: t.update({HEAD: t[EMBEDDING] + 1}))
    models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in ("one", "two")]
    notes = mergecore.plan({"merge_method": "linear", "models": models}).notes
    assert any("the stored weights differ, so they are merged separately" in note for note in notes)


def write_class(tmp_path: Path, name: str, seed: int) -> str:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    getattr(transformers, name)(config).save_pretrained(tmp_path / name)
    return str(tmp_path / name)


def test_a_model_without_a_head_has_no_say_in_it(tmp_path: Path) -> None:
    """Its embedding is not its head, because its config says that they are separate."""
    base, bare = write_class(tmp_path, "LlamaForCausalLM", 1), write_class(tmp_path, "LlamaModel", 2)
    models = [{"model": bare, "parameters": {"weight": 1}}]
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "models": models}
    merged = load_file(mergecore.run(recipe, tmp_path / "out") / "model.safetensors")
    first, second = (load_file(Path(folder) / "model.safetensors") for folder in (base, bare))
    assert torch.equal(merged[HEAD], first[HEAD])
    assert torch.allclose(merged[EMBEDDING], second["embed_tokens.weight"], atol=1e-6)


@pytest.mark.parametrize("other", ["LlamaForSequenceClassification", "LlamaForTokenClassification"])
@pytest.mark.parametrize("causal_first", [True, False])
def test_a_head_for_another_task(other: str, causal_first: bool, tmp_path: Path) -> None:
    """The error says what to run, and the result of that command can be merged."""
    first, second = write_class(tmp_path, "LlamaForCausalLM", 1), write_class(tmp_path, other, 2)
    if not causal_first:
        first, second = second, first
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": first,
        "models": [{"model": second, "parameters": {"weight": 1}}],
    }
    check_advice(recipe, "so their heads differ", tmp_path)


def test_a_value_head_that_training_added(tmp_path: Path) -> None:
    base, tuned = (write_model(tmp_path / name, seed) for seed, name in enumerate(("base", "tuned")))
    rewrite(tuned, lambda tensors: tensors.update({"v_head.summary.weight": torch.ones(1, 8)}))
    models = [{"model": str(model), "parameters": {"weight": 1}} for model in (base, tuned)]
    recipe = {"merge_method": "linear", "models": models}
    check_advice(recipe, "'v_head.summary.weight', a head for another task", tmp_path)


def check_advice(recipe: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(MergecoreError, match=said) as raised:
        mergecore.plan(recipe)
    _, _, code = shlex.split(str(raised.value).partition("recipe: ")[2])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    recipe["models"][-1]["model"] = str(tmp_path / "FOLDER")
    assert (mergecore.run(recipe, tmp_path / "out") / "model.safetensors").is_file()
