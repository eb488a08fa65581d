"""Tiny models of several architectures with word-level tokenizers, and the command as a user types it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from zoo import VOCABULARY, Tiny, decoders, experts

from mergecore import cli

WORDS = [f"w{number}" for number in range(VOCABULARY - 4)]
"""The last four rows are padding rows."""
NAMES = ("LlamaForCausalLM", "Qwen2ForCausalLM-tied", "Qwen3ForCausalLM-biases", "GPTNeoXForCausalLM", "PhiForCausalLM",
         "GemmaForCausalLM", "MixtralForCausalLM")  # fmt: skip
TINY = {str(tiny): tiny for tiny in (*decoders.MODELS, *experts.MODELS) if str(tiny) in NAMES}


def put_words(folder: Path, words: Sequence[str], **settings: object) -> None:
    """Write a word-level tokenizer, with IDs in the given order."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **settings})
    (folder / "tokenizer_config.json").write_text(text, "utf-8")


def patient(tiny: Tiny, folder: Path, words: Sequence[str] = WORDS, seed: int = 0) -> Path:
    """Write a tiny model and its tokenizer. The seed determines the weights."""
    model = tiny.build()
    if seed:
        torch.manual_seed(seed)
        for tensor in model.state_dict().values():
            tensor.normal_() if tensor.is_floating_point() else None
    model.save_pretrained(folder)
    put_words(folder, words)
    return folder


def is_table(name: str) -> bool:
    return "embed" in name or "lm_head" in name


def with_rows(folder: Path, out: Path, words: Sequence[str], rows: int, width: int | None = None) -> Path:
    """Write the model with a different number of rows or width, and new random tables."""
    out.mkdir()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    stored = load_file(folder / "model.safetensors")
    torch.manual_seed(9)
    for name, tensor in stored.items():
        if is_table(name):
            shape = (rows, *([width or tensor.shape[1]] if tensor.ndim == 2 else []))
            stored[name] = torch.randn(shape)
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps({**config, "vocab_size": rows}), "utf-8")
    put_words(out, words)
    return out


def permuted(folder: Path, out: Path, order: torch.Tensor) -> Path:
    """Write the folder with ID order[i] for token i, and weights of another model that must not affect the result."""
    shutil.copytree(folder, out)
    words = [""] * len(WORDS)
    for number, word in enumerate(WORDS):
        words[int(order[number])] = word
    put_words(out, words)
    stored = load_file(out / "model.safetensors")
    save_file({name: torch.randn_like(tensor) for name, tensor in stored.items()}, out / "model.safetensors")
    return out


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def surgeon(*words: object) -> int:
    """Return the exit status of ``mergecore tokensurgeon``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mergecore", "tokensurgeon", *map(str, words), "--quiet"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    return int(caught.value.code or 0)
