"""The order of the models changes nothing but the last bit: same names, shapes, config, and values, or same refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from shrunk_models import write_with_text
from tiny_llamas import HIDDEN, write_model
from transformers import BertConfig, BertModel

import mergecore
from mergecore.errors import MergecoreError

Tensors = dict[str, torch.Tensor]
Pair = Callable[[Path], object]
"""Writes the models ``base`` and ``tuned`` into a folder."""

SMALL = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
SPELT = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}


def rewrite(folder: Path, change: Callable[[Tensors], object], kind: str = "safetensors", **config: Any) -> None:
    """Change the tensors and the config of a model. A key with the value None is removed."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    if kind == "bin":
        file.unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, file, {"format": "pt"})
    settings = {**json.loads((folder / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def llamas(base: dict[str, Any], tuned: dict[str, Any]) -> Pair:
    def write(folder: Path) -> None:
        write_model(folder / "base", 1, **base)
        write_model(folder / "tuned", 2, **tuned)

    return write


def odd(extra: dict[str, tuple[int, ...]], **config: Any) -> Pair:
    """Models of an unknown class. The base has more weights."""

    def write(folder: Path) -> None:
        for seed, name in enumerate(("base", "tuned")):
            write_model(folder / name, seed, architectures=["OddForCausalLM"], **config)
        more = {name: torch.randn(shape) for name, shape in extra.items()}
        rewrite(folder / "base", lambda tensors: tensors.update(more))

    return write


def with_prediction_layer(folder: Path) -> None:
    for seed, (name, layers) in enumerate((("base", 3), ("tuned", 2))):
        write_model(folder / name, seed, architectures=["OddMoeForCausalLM"], num_hidden_layers=layers)
    more = {"model.layers.2.eh_proj.weight": torch.ones(HIDDEN, 2 * HIDDEN)}
    rewrite(folder / "base", lambda t: t.update(more), num_hidden_layers=2, num_nextn_predict_layers=1)


def widths(folder: Path) -> None:
    for name, width in (("base", 8), ("tuned", 16)):
        config = transformers.LlamaConfig(**{**SMALL, "vocab_size": 12, "hidden_size": width})
        transformers.LlamaForCausalLM(config).save_pretrained(folder / name)


def tied(change: Callable[[Tensors], object], kind: str = "safetensors", **config: Any) -> Pair:
    def write(folder: Path) -> None:
        llamas({"tie_word_embeddings": True}, {"tie_word_embeddings": True})(folder)
        rewrite(folder / "tuned", change, kind, **config)

    return write


def copied(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]


def moved(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")


def classes(base: str, tuned: str, **config: Any) -> Pair:
    def write(folder: Path) -> None:
        for seed, (name, kind) in enumerate((("base", base), ("tuned", tuned))):
            torch.manual_seed(seed)
            model_class = getattr(transformers, kind)
            model_class(model_class.config_class(**SMALL, **config)).save_pretrained(folder / name)

    return write


def composite(name: str) -> Pair:
    """A model of a class with several parts, and a language model like its text part."""
    return lambda folder: write_with_text(name, folder / "base", folder / "tuned")


def sentences(*widths: int | None) -> Pair:
    """Models of sentence-transformers with a Dense module of a width, or without any module."""

    def write(folder: Path) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Dense, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling
        from transformers import BertTokenizerFast

        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
        for seed, (name, width) in enumerate(zip(("base", "tuned"), widths)):
            torch.manual_seed(seed)
            plain = folder / name if width is None else folder / f"{name}-plain"
            BertModel(BertConfig(**{**SMALL, "vocab_size": len(words)})).save_pretrained(plain)
            (plain / "vocab.txt").write_text("\n".join(words))
            BertTokenizerFast(str(plain / "vocab.txt")).save_pretrained(plain)
            if width is not None:
                modules = [Transformer(str(plain)), Pooling(8, "cls"), Dense(8, width)]
                SentenceTransformer(modules=modules, device="cpu").save(str(folder / name), create_model_card=False)

    return write


ALIKE: dict[str, Pair] = {
    "a prediction layer": odd({"mtp.fc.weight": (8, 16)}),
    "a numbered prediction layer": with_prediction_layer,
    "keys of layers that share them": odd({"model.layers.1.self_attn.k_norm.weight": (4,)}, num_kv_shared_layers=1),
    "a computed buffer": odd({"model.layers.0.self_attn.rotary_emb.inv_freq": (2,)}),
    "a copy of a tied head": tied(copied),
    "a copy of a tied head in a .bin file": tied(copied, "bin"),
    "the tied head alone": tied(moved),
    "a tied head and a silent config": tied(copied, tie_word_embeddings=None),
    "a tied and a separate head": llamas({"tie_word_embeddings": True}, {"tie_word_embeddings": False}),
    "a model without a head": classes("LlamaForCausalLM", "LlamaModel"),
    "a tied model without a head": classes("LlamaForCausalLM", "LlamaModel", tie_word_embeddings=True),
    "a masked language model and a model with a pooler": classes("BertForMaskedLM", "BertModel"),
    "rope in the words of two releases": llamas({"rope_theta": 5e5}, SPELT),
    "two dtypes": lambda folder: (llamas({}, {})(folder), rewrite(
        folder / "tuned", lambda t: t.update({k: v.bfloat16() for k, v in t.items()}), torch_dtype="bfloat16")),
    "LLaVA and its text": composite("LlavaForConditionalGeneration"),
    "InternVL and its text": composite("InternVLForConditionalGeneration"),
    "Qwen3.5 and its text": composite("Qwen3_5ForConditionalGeneration"),
    "Voxtral and its text": composite("VoxtralForConditionalGeneration"),
    "sentence-transformers": sentences(6, 6),
    "sentence-transformers and a plain model": sentences(6, None),
}  # fmt: skip

REFUSED: dict[str, tuple[Pair, str]] = {
    "a head for another task": (classes("LlamaForCausalLM", "LlamaForSequenceClassification"), "so their heads differ"),
    "a weight that only one has": (odd({"model.more.weight": (8,)}), r"model\.more\.weight"),
    "other widths": (widths, r"\[12, 8\].*\[12, 16\]|\[12, 16\].*\[12, 8\]"),
    "sentence-transformers of two widths": (sentences(6, 5), "2_Dense has out_features"),
    "other classes": (classes("LlamaForCausalLM", "GPTNeoXForCausalLM"), "LlamaForCausalLM"),
}


def recipe(folder: Path, *names: str) -> dict[str, Any]:
    weights = {"base": 0.25, "tuned": 0.75}
    models = [{"model": str(folder / name), "parameters": {"weight": weights[name]}} for name in names]
    return {"merge_method": "linear", "dtype": "float32", "models": models}


def settings(out: Path) -> dict[str, Any]:
    """Return the config as its class reads it, if there is one, because two releases spell it differently."""
    config = json.loads((out / "config.json").read_text())
    if config["architectures"][0].startswith("Odd"):
        return config
    return {**transformers.AutoConfig.from_pretrained(out).to_dict(), "_name_or_path": ""}


@pytest.mark.parametrize("what", ALIKE)
def test_both_orders_have_the_same_result(what: str, tmp_path: Path) -> None:
    ALIKE[what](tmp_path)
    outs = [mergecore.run(recipe(tmp_path, *order), tmp_path / order[0][:1]) for order in
            (("base", "tuned"), ("tuned", "base"))]  # fmt: skip
    files = [sorted(path.relative_to(out) for path in out.rglob("*.safetensors")) for out in outs]
    assert files[0] == files[1]
    for file in files[0]:
        first, second = (load_file(out / file) for out in outs)
        assert {name: value.shape for name, value in first.items()} == {n: v.shape for n, v in second.items()}
        for name, value in first.items():
            step = torch.finfo(value.dtype).eps * value.abs().max()
            assert value.dtype == second[name].dtype and (value - second[name]).abs().max() <= step, name
    first, second = map(settings, outs)
    assert first == second


@pytest.mark.parametrize("what", REFUSED)
def test_both_orders_are_refused_for_the_same_reason(what: str, tmp_path: Path) -> None:
    write, said = REFUSED[what]
    write(tmp_path)
    for order in (("base", "tuned"), ("tuned", "base")):
        with pytest.raises(MergecoreError, match=said):
            mergecore.plan(recipe(tmp_path, *order))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp"])
@pytest.mark.parametrize(
    "what", ["InternVL and its text", "a model without a head", "sentence-transformers and a plain model"]
)
def test_a_base_can_be_a_part_of_a_model(what: str, method: str, tmp_path: Path) -> None:
    """What the base does not have comes from the model that does, and the rest is merged."""
    ALIKE[what](tmp_path)
    part, whole = str(tmp_path / "tuned"), str(tmp_path / "base")
    value: dict[str, Any] = {"merge_method": method, "base_model": part, "parameters": {"weight": 0.5}}
    value["models"] = [{"model": whole}]
    if method == "slerp":
        value |= {"models": [{"model": part}, {"model": whole}], "parameters": {"t": 0.5}}
    out = mergecore.run({**value, "dtype": "float32"}, tmp_path / "out")
    made, given, less = (load_file(Path(folder) / "model.safetensors") for folder in (out, whole, part))
    assert made.keys() >= given.keys()
    ends = tuple(name.removeprefix("model.") for name in less)
    for name, value in given.items():
        merged = name.endswith(ends) and "vision" not in name
        assert torch.equal(made[name], value) is not merged or bool((value == value.flatten()[0]).all()), name
