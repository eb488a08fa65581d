"""Tiny Llamas with small real tokenizers, and a plain NumPy reference for their rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = {
    "sea": ["the ship sails over the stormy sea, and the sailors sing songs of the sea"] * 4,
    "code": ["def merge(models): return sum(models) / len(models)  # the mean of models"] * 4,
    "ville": ["la ville est belle, et la rivière coule sous les ponts de la ville"] * 4,
}
TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def byte_level(text: str, size: int = 290, special: Sequence[str] = ()) -> Tokenizer:
    """Train a byte-level BPE tokenizer on a few words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS[text], trainer)
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def unigram(text: str, size: int = 60) -> Tokenizer:
    """Train a Unigram tokenizer in the style of SentencePiece."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    options = {"special_tokens": ["<unk>", "</s>"], "unk_token": "<unk>", "show_progress": False}
    tokenizer.train_from_iterator(TEXTS[text], trainers.UnigramTrainer(vocab_size=size, **options))
    return tokenizer


def put(folder: Path, tokenizer: Tokenizer, settings: Mapping[str, Any] | None = None) -> None:
    """Write a tokenizer into a model folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **(settings or {})})
    (folder / "tokenizer_config.json").write_text(text, "utf-8")


def model(folder: Path, seed: int, tokenizer: Tokenizer, rows: int | None = None, **config: Any) -> Path:
    """Create a tiny Llama with a tokenizer. Pass `rows` if their number differs from the number of tokens."""
    size = tokenizer.get_vocab_size() if rows is None else rows
    put(write_model(folder, seed, vocab_size=size, **config), tokenizer)
    return folder


def ids(folder: Path) -> dict[str, int]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)


def tables(folder: Path) -> dict[str, np.ndarray]:
    """Return the embedding and the head of a model. If the head is not stored, it is the embedding."""
    stored = {name: tensor.float().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}
    return {name: stored.get(name, stored[TABLES[0]]) for name in TABLES}


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.float().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


def expected(out: Path, folders: Sequence[Path], base: int, table: str) -> list[np.ndarray]:
    """Return every model's table in the output's vocabulary, computed token by token in plain loops."""
    result = []
    known, stored = [ids(folder) for folder in folders], [tables(folder)[table] for folder in folders]
    size = json.loads((out / "config.json").read_text())["vocab_size"]
    for place in range(len(folders)):
        rows = np.zeros((size, stored[0].shape[1]), "f4")
        for token, row in ids(out).items():
            owners = [m for m in range(len(folders)) if known[m].get(token, 10**9) < len(stored[m])]
            if place in owners:
                owners = [place]
            elif base in owners:
                owners = [base]
            if owners:
                rows[row] = np.mean([stored[m][known[m][token]] for m in owners], axis=0, dtype="f4")
        used = set(ids(out).values())
        for row in set(range(min(size, len(stored[base])))) - used:
            rows[row] = stored[base][row]
        result.append(rows)
    return result


def permuted(folder: Path, out: Path, seed: int = 5) -> Path:
    """Write the same model with permuted token IDs."""
    out.mkdir()
    value = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    stored = load_file(folder / "model.safetensors")
    order = np.random.default_rng(seed).permutation(len(stored[TABLES[0]]))
    value["model"]["vocab"] = {token: int(order[number]) for token, number in value["model"]["vocab"].items()}
    for entry in value["added_tokens"]:
        value["model"]["vocab"][entry["content"]] = entry["id"] = int(order[entry["id"]])
    value["added_tokens"].sort(key=lambda entry: entry["id"])
    for name in TABLES:
        if name in stored:
            stored[name] = stored[name][np.argsort(order).tolist()].contiguous()
    save_file(stored, out / "model.safetensors")
    (out / "tokenizer.json").write_text(json.dumps(value), "utf-8")
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    return out
