"""Problems reported by users of merge tools, one test each. The numbers refer to our notes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from mergecore_verify import examine
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model
from tiny_models import Tiny
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import mergecore
from mergecore.errors import InputError

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def llama(folder: Path, seed: int, tokens: int, rows: int | None = None, special: int = 0, **config: Any) -> Path:
    """A tiny Llama with a tokenizer of this many words and special tokens. `rows` overrides the number of rows."""
    write_model(folder, seed, vocab_size=tokens + special if rows is None else rows, **config)
    tokenizer = Tokenizer(WordLevel({f"w{number}": number for number in range(tokens)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([f"<s{number}>" for number in range(special)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def recipe(method: str, *models: Path | str, base: Path | str | None = None, **keys: Any) -> dict[str, Any]:
    weight = {} if method == "slerp" else {"parameters": {"weight": 0.5}}
    entries = [{"model": str(model), **weight} for model in models]
    return {"merge_method": method, "models": entries, **({"base_model": str(base)} if base else {}), **keys}


def merged(what: Mapping[str, Any], out: Path) -> Path:
    """Run a recipe and check that the result passes `mergecore verify`."""
    mergecore.run(what, out)
    wrong = [finding for finding in examine(out, sample=3) if finding.passed is False]
    assert not wrong, wrong
    return out


def config(folder: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    return found


def tensors(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def logits(folder: Path | str) -> torch.Tensor:
    result: torch.Tensor = transformers.AutoModelForCausalLM.from_pretrained(folder)(torch.arange(8)[None]).logits
    return result


def test_01_vocabularies_of_different_sizes(tmp_path: Path) -> None:
    models = [llama(tmp_path / "a", 1, 64), llama(tmp_path / "b", 2, 64, special=7)]
    for what in (recipe("linear", *models), recipe("slerp", *models, base=models[0], parameters={"t": 0.5})):
        with pytest.raises(InputError, match=r"tokenizer: {source: base} or tokenizer: {source: union}"):
            mergecore.plan(what)
        out = merged({**what, "tokenizer": {"source": "union"}}, tmp_path / what["merge_method"])
        assert config(out)["vocab_size"] == 71 == len(tensors(out)[EMBEDDING]) == len(tensors(out)[HEAD])


def test_02_padded_embeddings_keep_the_bases_rows(tmp_path: Path) -> None:
    models = [llama(tmp_path / "a", 1, 51, rows=64), llama(tmp_path / "b", 2, 51, rows=56)]
    out = merged(recipe("linear", *models, base=models[0], tokenizer={"source": "base"}), tmp_path / "out")
    assert config(out)["vocab_size"] == 64 == len(tensors(out)[EMBEDDING])


def test_03_tokens_beyond_the_rows_are_refused_with_what_mends_it(tmp_path: Path) -> None:
    models = [llama(tmp_path / name, seed, 30, rows=30, special=2) for seed, name in enumerate("ab")]
    what = recipe("linear", *models, tokenizer={"source": "base"})
    with pytest.raises(InputError, match=r"the ID 30 to '<s0>', but it has only 30 rows.*kind: zero"):
        mergecore.plan(what)
    what["tokenizer"]["tokens"] = {f"<s{number}>": {"source": {"kind": "zero"}} for number in range(2)}
    assert config(merged(what, tmp_path / "out"))["vocab_size"] == 32


@pytest.mark.parametrize("method", ["ties", "dare_ties", "slerp", "nuslerp"])
def test_04_a_permuted_copy_merges_to_the_model_itself(tmp_path: Path, method: str) -> None:
    model = llama(tmp_path / "model", 1, 40)
    copy, order = write_model(tmp_path / "copy", 1, vocab_size=40), np.random.default_rng(3).permutation(40)
    words = {f"w{number}": int(order[number]) for number in range(40)}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(copy / "tokenizer.json"))
    stored = tensors(model)
    rows = {name: stored[name][np.argsort(order).tolist()].contiguous() for name in (EMBEDDING, HEAD)}
    save_file({**stored, **rows}, copy / "model.safetensors", metadata={"format": "pt"})
    models = (model, copy) if method in ("slerp", "nuslerp") else (copy,)
    parameters = {"slerp": {"t": 0.5}, "nuslerp": {}, "ties": {"density": 0.5}, "dare_ties": {"density": 0.5}}[method]
    what = recipe(method, *models, base=None if method == "nuslerp" else model, parameters=parameters)
    out = merged({**what, "tokenizer": {"source": "union"}}, tmp_path / "out")
    for name, tensor in tensors(out).items():
        torch.testing.assert_close(tensor, stored[name], rtol=1e-6, atol=1e-7)
    assert (tmp_path / "out/tokenizer.json").read_text().count('"w39"') == 1


def test_05_a_union_has_no_row_without_numbers(tmp_path: Path) -> None:
    a, b = llama(tmp_path / "a", 1, 30, rows=48, special=5), llama(tmp_path / "b", 2, 36, rows=40, special=1)
    out = merged(recipe("linear", a, b, tokenizer={"source": "union"}), tmp_path / "out")
    assert all(tensor.isfinite().all() for tensor in tensors(out).values())


LARGE = """
import resource, sys, torch, mergecore
from mergecore import models, planning
import mergecore_tokenizer.output
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mergecore.run(sys.argv[1], sys.argv[2], memory=2**25, workers=2)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_06_a_union_of_large_vocabularies_takes_little_memory(tmp_path: Path) -> None:
    models = [llama(tmp_path / "a", 1, 150_000), llama(tmp_path / "b", 2, 150_000, special=64)]
    what = recipe("linear", *models, tokenizer={"source": "union"})
    (tmp_path / "recipe.yml").write_text(json.dumps(what), "utf-8")
    command = [sys.executable, "-c", LARGE, str(tmp_path / "recipe.yml"), str(tmp_path / "out")]
    before, after = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert (after - before) * 1024 < 600e6
    assert len(tensors(tmp_path / "out")[EMBEDDING]) == 150_064


def test_07_a_passthrough_of_one_model_keeps_its_tokenizer(tmp_path: Path) -> None:
    model = llama(tmp_path / "model", 1, 30)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json"):
        (model / name).write_text("{}", "utf-8")
    out = merged({"merge_method": "passthrough", "models": [{"model": str(model)}]}, tmp_path / "out")
    for path in model.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            assert (out / path.name).read_bytes() == path.read_bytes()


def test_07_with_an_adapter_too_and_again_from_its_lock(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = llama(tmp_path / "model", 1, 30)
    (model / "tokenizer_config.json").write_text("{}", "utf-8")
    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(model), settings)
    adapted.save_pretrained(tmp_path / "adapter")
    both = f"{model}+{tmp_path}/adapter"
    out = merged({"merge_method": "passthrough", "models": [{"model": both}]}, tmp_path / "out")
    assert (out / "tokenizer_config.json").read_text("utf-8") == "{}"
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(tensors(out)[name], adapted.merge_and_unload().state_dict()[name], rtol=0, atol=1e-6)
    assert not torch.equal(tensors(out)[name], tensors(model)[name])
    mergecore.run(out / "mergecore.lock.json", tmp_path / "again")
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "again")]
    assert weights[0] == weights[1]


def test_08_tokenizers_in_two_formats(tmp_path: Path) -> None:
    """One vocabulary is in tiktoken format, the other in tokenizer.json. The plugin's tests cover SentencePiece."""
    old, new = write_model(tmp_path / "old", 1, vocab_size=256), write_model(tmp_path / "new", 2, vocab_size=256)
    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    (old / "x.tiktoken").write_text("\n".join(lines), "utf-8")
    from mergecore_tokenizer.reading import read

    found = read("old", old)
    assert found is not None
    (new / "tokenizer.json").write_text(json.dumps(found.build()), "utf-8")
    out = merged(recipe("linear", old, new, tokenizer={"source": "union"}), tmp_path / "out")
    for name in (EMBEDDING, HEAD):
        mean = (tensors(old)[name] + tensors(new)[name]) / 2
        torch.testing.assert_close(tensors(out)[name], mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["passthrough", "linear", "slices"])
def test_09_models_with_tied_heads_stay_tied(tiny: Tiny, tmp_path: Path, method: str) -> None:
    a, b = tiny("llama-tied"), tiny("llama-tied", 1)
    slices = [{"sources": [{"model": model, "layer_range": [0, 2]}]} for model in (a, b)]
    what = {
        "passthrough": {"merge_method": "passthrough", "models": [{"model": a}]},
        "linear": recipe("linear", a, b),
        "slices": {"merge_method": "passthrough", "slices": slices},
    }[method]
    out = merged(what, tmp_path / "out")
    assert config(out)["tie_word_embeddings"] is True and HEAD not in tensors(out)
    assert logits(out).isfinite().all()


def test_10_a_tied_and_an_untied_model_give_an_untied_one(tmp_path: Path) -> None:
    tied = write_model(tmp_path / "tied", 1, vocab_size=20, tie_word_embeddings=True)
    untied = write_model(tmp_path / "untied", 2, vocab_size=20)
    for base in (tied, untied):
        out = merged(recipe("linear", tied, untied, base=base), tmp_path / f"from-{base.name}")
        assert config(out)["tie_word_embeddings"] is False
        head = (tensors(tied)[EMBEDDING] + tensors(untied)[HEAD]) / 2
        torch.testing.assert_close(tensors(out)[HEAD], head)
        model = transformers.AutoModelForCausalLM.from_pretrained(out)
        torch.testing.assert_close(model.lm_head.weight.data, head)
        assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_11_a_tied_model_with_a_union_has_no_parameter_more(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        settings = Gemma2Config(
            vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, bos_token_id=2, eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        Gemma2ForCausalLM(settings).save_pretrained(tmp_path / name)
        words = Tokenizer(WordLevel({f"w{number}": number for number in range(30)}, unk_token="w0"))
        words.save(str(tmp_path / name / "tokenizer.json"))
    out = merged(recipe("linear", tmp_path / "a", tmp_path / "b", tokenizer={"source": "union"}), tmp_path / "out")
    sizes = [sum(t.numel() for t in tensors(folder).values()) for folder in (tmp_path / "a", out)]
    assert sizes[0] == sizes[1] and HEAD not in tensors(out)


def test_12_a_head_that_is_said_to_be_there_and_is_not(tmp_path: Path) -> None:
    models = [write_model(tmp_path / name, seed, tie_word_embeddings=True) for seed, name in enumerate("ab")]
    for model in models:
        (model / "config.json").write_text(json.dumps({**config(model), "tie_word_embeddings": False}), "utf-8")
    assert any(finding.check == "loading" and finding.passed is False for finding in examine(models[0]))
    out = merged(recipe("linear", *models), tmp_path / "out")
    assert config(out)["tie_word_embeddings"] is True, "the only interpretation without missing weights"


def test_19_single_layers_count_in_nested_configs_too(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("qwen3")
    pieces = [{"sources": [{"model": model, "layer_range": span}]} for span in ([0, 1], [2, 3], [2, 3], [1, 2])]
    out = merged({"merge_method": "passthrough", "slices": pieces}, tmp_path / "out")
    kinds = config(model)["layer_types"]
    assert config(out)["num_hidden_layers"] == 4
    assert config(out)["layer_types"] == [kinds[layer] for layer in (0, 2, 2, 1)]
    assert logits(out).isfinite().all()


def test_19_single_layers_of_a_nested_text_config(tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(1)
    text = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 8,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    settings = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=39)
    Gemma3ForConditionalGeneration(settings).save_pretrained(tmp_path / "model")
    source = {"model": str(tmp_path / "model")}
    pieces = [{"sources": [{**source, "layer_range": span}]} for span in ([0, 2], [4, 6])]
    whole = {"models": [source]}
    modules = {"text": {"slices": pieces}, "vision": whole, "projector": whole}
    out = merged({"merge_method": "passthrough", "modules": modules}, tmp_path / "out")
    nested = config(out)["text_config"]
    kinds = config(tmp_path / "model")["text_config"]["layer_types"]
    assert nested["num_hidden_layers"] == 4 and config(out)["vision_config"]["num_hidden_layers"] == 2
    assert nested["layer_types"] == [*kinds[0:2], *kinds[4:6]]


def test_20_models_of_another_size_are_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="the models have different shapes"):
        mergecore.plan(recipe("linear", tiny("llama"), tiny("llama", hidden_size=48)))


def test_21_settings_in_which_the_configs_differ_are_named_and_the_bases_kept(tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    a = write_model(tmp_path / "a", 1, rope_theta=10_000.0, max_position_embeddings=64)
    b = write_model(tmp_path / "b", 2, rope_theta=500_000.0, max_position_embeddings=128, rope_scaling=scaling)
    plan = mergecore.plan(recipe("linear", a, b))
    plan.close()
    (note,) = (note for note in plan.notes if "config differs" in note)
    said = (
        "config differs in max_position_embeddings (128, not 64), rope_theta (500000.0, not 10000.0), rope_type"
        ' ("linear", not "default"), factor (2.0, not set there); using that of '
    )
    assert note == f"{b}: {said}{a}"
    out = merged(recipe("linear", a, b), tmp_path / "out")
    assert config(out)["rope_theta"] == 10_000.0 and "rope_scaling" not in config(out)
