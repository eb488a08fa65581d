"""Trained modules of sentence-transformers models are merged with the transformer, or the models are refused."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling, StaticEmbedding
from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel

import mergecore
from mergecore.errors import MergecoreError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
TEXTS = ["a b c", "d", "h g f e d"]
MODULES = ("", "2_Dense", "3_LayerNorm")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def run_cli(*arguments: str) -> str:
    command = [sys.executable, "-m", "mergecore", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def shake(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def write(bert: Path, folder: Path, seed: int, width: int = 6, pooling: str = "cls") -> Path:
    modules = [Transformer(str(bert)), Pooling(8, pooling), Dense(8, width), LayerNorm(width), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu")
    shake(model, seed)
    model.save(str(folder), create_model_card=False)
    return folder


def old_layout(folder: Path) -> None:
    """Move the transformer to a subfolder, and spell the pooling as older versions do."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = inner.name
    for item in listed:
        item["type"] = "sentence_transformers.models." + item["type"].rpartition(".")[2]
    (folder / "modules.json").write_text(json.dumps(listed))
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **modes}))


def bin_files(folder: Path) -> None:
    for path in MODULES[1:]:
        torch.save(load_file(folder / path / "model.safetensors"), folder / path / "pytorch_model.bin")
        (folder / path / "model.safetensors").unlink()


def half(*models: Path) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in models]}


def embeddings(folder: Path) -> torch.Tensor:
    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)


def expected(bert: Path, tmp_path: Path, *models: Path) -> torch.Tensor:
    """Average every parameter of the models that sentence-transformers loads."""
    opened = [SentenceTransformer(str(model), device="cpu") for model in models]
    with torch.no_grad():
        for parameters in zip(*(model.parameters() for model in opened)):
            parameters[0].copy_(torch.stack([parameter.double() for parameter in parameters]).mean(0))
    return opened[0].encode(TEXTS, convert_to_tensor=True)


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("change", [lambda folder: None, old_layout, bin_files])
def test_every_module_is_merged(change: Callable[[Path], None], kept: int, bert: Path, tmp_path: Path) -> None:
    models = [write(bert, tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    change(models[1])
    models = [models[kept], models[1 - kept]]
    out = mergecore.run(half(*models), tmp_path / "out")
    assert torch.allclose(embeddings(out), expected(bert, tmp_path, *models), atol=1e-6)
    run_cli("verify", str(out))


def test_a_merge_is_a_stage_of_another(bert: Path, tmp_path: Path) -> None:
    one, two, three = (write(bert, tmp_path / name, seed) for seed, name in enumerate(("one", "two", "three")))
    nested = half(tmp_path / "both", three)
    nested["models"][0]["model"] = "both"
    documents = ({"name": "both", **half(one, two)}, nested)
    (tmp_path / "recipe.yml").write_text("---\n".join(json.dumps(document) + "\n" for document in documents))
    run_cli("run", str(tmp_path / "recipe.yml"), str(tmp_path / "out"))
    mean = mergecore.run(half(one, two), tmp_path / "mean")
    assert torch.allclose(embeddings(tmp_path / "out"), expected(bert, tmp_path, mean, three), atol=1e-6)


def test_a_random_method_in_pieces_and_resumed(bert: Path, tmp_path: Path) -> None:
    """The weights of modules are like all others: they are journaled, hashed, and the same for every tile size."""
    base, tuned = write(bert, tmp_path / "base", 1), write(bert, tmp_path / "tuned", 2)
    recipe = {"merge_method": "dare_ties", "base_model": str(base)}
    recipe["models"] = [{"model": str(tuned), "parameters": {"weight": 1, "density": 0.5}}]
    outs = [mergecore.run(recipe, tmp_path / f"out{memory}", memory=memory) for memory in (1 << 20, 1 << 28)]
    for path in MODULES:
        first, second, third = (load_file(out / path / "model.safetensors") for out in (*outs, base))
        assert all(torch.equal(first[name], second[name]) for name in third)
        assert any(not torch.equal(first[name], third[name]) for name in third)
    listed = json.loads((outs[0] / "mergecore.lock.json").read_text())
    assert "2_Dense/model.safetensors" in json.dumps(listed)


def test_a_plain_transformer_leaves_the_modules_alone(bert: Path, tmp_path: Path) -> None:
    base = write(bert, tmp_path / "base", 1)
    plain = BertModel.from_pretrained(bert)
    shake(plain, 2)
    plain.save_pretrained(tmp_path / "plain")
    for name, models in (("first", (base, tmp_path / "plain")), ("last", (tmp_path / "plain", base))):
        out = mergecore.run(half(*models), tmp_path / name)
        for path in MODULES[1:]:
            made, source = (load_file(folder / path / "model.safetensors") for folder in (out, base))
            assert all(torch.equal(made[name], tensor) for name, tensor in source.items())
    plan = mergecore.plan(half(tmp_path / "plain", base))
    plan.close()
    assert any(f"{base}: contains {tmp_path / 'plain'}, so the result has its class" in note for note in plan.notes)
    smaller = BertModel(BertConfig(**{**plain.config.to_dict(), "hidden_size": 4}))
    smaller.save_pretrained(tmp_path / "smaller")
    with pytest.raises(MergecoreError, match=r"has the trained module 2_Dense.*make .*base the base or first model"):
        mergecore.plan(half(tmp_path / "smaller", base))


REFUSED: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "another pooling": (lambda bert, f: write(bert, f, 2, pooling="mean"), "1_Pooling has pooling_mode"),
    "another width": (lambda bert, f: write(bert, f, 2, width=5), "2_Dense has out_features"),
    "no Dense": (
        lambda bert, f: SentenceTransformer(modules=[Transformer(str(bert)), Pooling(8, "cls")]).save(str(f)),
        "its modules are",
    ),
    "another activation": (
        lambda bert, f: SentenceTransformer(
            modules=[
                Transformer(str(bert)), Pooling(8, "cls"), Dense(8, 6, activation_function=torch.nn.Identity()),
                LayerNorm(6), Normalize(),
            ]
        ).save(str(f)),
        "2_Dense has activation_function",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_models_that_do_not_fit_are_refused_in_any_order(what: str, bert: Path, tmp_path: Path) -> None:
    make, said = REFUSED[what]
    models = [write(bert, tmp_path / "one", 1), tmp_path / "two"]
    make(bert, models[1])
    for order in itertools.permutations(models):
        with pytest.raises(MergecoreError, match=said):
            mergecore.plan(half(*order))


def write_static(bert: Path, folder: Path, seed: int) -> Path:
    embedding = StaticEmbedding(Tokenizer.from_file(str(bert / "tokenizer.json")), embedding_dim=4)
    model = SentenceTransformer(modules=[embedding, Normalize()], device="cpu")
    shake(model, seed)
    model.save(str(folder), create_model_card=False)
    return folder


def into_subfolder(folder: Path) -> None:
    """Use the layout of sentence-transformers 3, in which every module has a folder."""
    inner = folder / "0_StaticEmbedding"
    inner.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).rename(inner / name)
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = inner.name
    (folder / "modules.json").write_text(json.dumps(listed))


@pytest.mark.parametrize("change", [lambda folder: None, into_subfolder])
def test_static_embeddings(change: Callable[[Path], None], bert: Path, tmp_path: Path) -> None:
    models = [write_static(bert, tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    for model in models:
        change(model)
    out = mergecore.run(half(*models), tmp_path / "out")
    assert torch.allclose(embeddings(out), expected(bert, tmp_path, *models), atol=1e-6)


def test_static_embeddings_of_different_tokens(bert: Path, tmp_path: Path) -> None:
    one, two = (write_static(bert, tmp_path / name, seed) for seed, name in enumerate(("one", "two")))
    text = (two / "tokenizer.json").read_text()
    (two / "tokenizer.json").write_text(text.replace('"a":', '"z":'))
    with pytest.raises(MergecoreError, match="their vocabularies differ"):
        mergecore.plan(half(one, two))


@pytest.mark.parametrize("text", ["5", "[]", "[{}]", '[{"path": "../x", "type": "Dense"}]', "[" * 5000])
def test_an_invalid_list_is_refused(text: str, bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "model")
    (tmp_path / "model" / "modules.json").write_text(text)
    with pytest.raises(MergecoreError, match="must list the path and the type of each module"):
        mergecore.plan(half(tmp_path / "model", bert))


def test_a_module_without_its_weights(bert: Path, tmp_path: Path) -> None:
    one, two = (write(bert, tmp_path / name, seed) for seed, name in enumerate(("one", "two")))
    save_file({"linear.bias": torch.ones(6)}, two / "2_Dense" / "model.safetensors")
    for order in ((one, two), (two, one)):
        with pytest.raises(MergecoreError, match=r"2_Dense/linear\.weight"):
            mergecore.plan(half(*order))
