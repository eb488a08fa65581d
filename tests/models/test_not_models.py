"""A folder that is not what a recipe needs is reported as what it is."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model

import mergecore
from mergecore.errors import InputError

CLASSES = {"Qwen2ForCausalLM": "qwen2", "Phi3ForCausalLM": "phi3", "GPT2LMHeadModel": "gpt2"}


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Plan a merge of `base` and another model, which is refused. Return the error message."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "base", 0)

    def refuse(model):
        with pytest.raises(InputError) as caught:
            sources = [{"model": name, "parameters": {"weight": 0.5}} for name in ("base", model)]
            mergecore.plan({"merge_method": "linear", "models": sources})
        return str(caught.value)

    return refuse


def adapter(folder):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "base"}))
    save_file({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 16)},
              folder / "adapter_model.safetensors")  # fmt: skip


@pytest.mark.parametrize("config", [False, True])
def test_an_adapter_in_place_of_a_model(refused, tmp_path, config):
    adapter(tmp_path / "tuned")
    if config:
        shutil.copy(tmp_path / "base" / "config.json", tmp_path / "tuned")
    assert "is an adapter, not a model; add it to its base model as BASE+" in refused("tuned")


@pytest.mark.parametrize(("inside", "said"), [
    (("checkpoint-100",), "a folder with 1 of them; for a model in it, write run/checkpoint-100"),
    (("checkpoint-900", "checkpoint-1000", "logs"), "with 2 of them; for a model in it, write run/checkpoint-1000"),
    (("final",), "for a model in it, write run/final"),
    (("+checkpoint-5",), "for an adapter in it, write run/+checkpoint-5"),
    ((), "has no config.json, so it is not a model"),
])  # fmt: skip
def test_the_parent_of_a_checkpoint(refused, tmp_path, inside, said):
    (tmp_path / "run").mkdir()
    for name in inside:
        if name.startswith("+"):
            adapter(tmp_path / "run" / name)
        elif name == "logs":
            (tmp_path / "run" / name).mkdir()
        else:
            write_model(tmp_path / "run" / name, 1)
    assert said in refused("run")


def test_weights_without_a_config(refused, tmp_path):
    (write_model(tmp_path / "bare", 1) / "config.json").unlink()
    assert "bare: has weights but no config.json; copy that of its base model" in refused("bare")


@pytest.mark.parametrize(("rename", "said"), [
    (lambda name: name, "was saved from a PEFT model"),
    (lambda name: name.replace("q_proj.", "q_proj.base_layer."), "was saved with an adapter that is not merged"),
    (lambda name: name.replace("up_proj.", "up_proj.lora_A.default."), "was saved with an adapter that is not merged"),
])  # fmt: skip
def test_a_model_that_is_still_wrapped(refused, tmp_path, rename, said):
    path = write_model(tmp_path / "wrapped", 1) / "model.safetensors"
    save_file({f"base_model.model.{rename(name)}": tensor for name, tensor in load_file(path).items()}, path)
    assert said in refused("wrapped")


@pytest.mark.parametrize("name", CLASSES)
def test_models_of_two_classes(refused, tmp_path, name):
    folder = write_model(tmp_path / "other", 1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name], "model_type": CLASSES[name]}))
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.0.self_attn.q_proj.bias": torch.ones(16)}, folder / "model.safetensors")
    said = f"other is of class {name}, but base is of class LlamaForCausalLM, and their weights do not match: "
    assert said in refused("other")


@pytest.mark.parametrize(("axes", "said"), [
    ((0, 1), "only models of the same sizes can be merged"),
    ((1,), "only models of the same sizes can be merged"),
    ((0,), "tokenizer"),
])  # fmt: skip
def test_models_of_two_widths_are_not_told_to_set_a_tokenizer(refused, tmp_path, axes, said):
    folder = write_model(tmp_path / "other", 1)
    tensors = load_file(folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    shape = [size * (2 if axis in axes else 1) for axis, size in enumerate(tensors[name].shape)]
    save_file({**tensors, name: torch.ones(shape)}, folder / "model.safetensors")
    text = refused("other")
    assert said in text and ("tokenizer" in text) == (axes == (0,))


def test_weights_that_add_up_to_zero(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b", "c")):
        write_model(tmp_path / name, seed)
    for weights in ((0, 0, 0), (1, -1, 0), (0.1, 0.2, -0.3), ([{"filter": "mlp", "value": 0}, {"value": 1}],) * 3):
        sources = [{"model": name, "parameters": {"weight": weight}} for name, weight in zip("abc", weights)]
        for method, shared in {"linear": "normalize", "multislerp": "normalize_weights"}.items():
            recipe = {"merge_method": method, "models": sources}
            with pytest.raises(InputError, match=rf"{method}: the weights .* add up to 0 .* set {shared}: false"):
                mergecore.plan(recipe)
            mergecore.plan({**recipe, "parameters": {shared: False}}).close()
