"""Tokens of two tokenizers match by meaning; options match bytes and prefixes, or keep only trained tokens."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from mergecore_tokensurgeon.meanings import Tokens, byte_row, prefix_row, same
from mergecore_tokensurgeon.undertrained import trained
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from patients import TINY, WORDS, patient, surgeon, tensors, with_rows


def vocabulary(folder: Path, *tokens: str) -> Tokens:
    return Tokens(folder, {token: number for number, token in enumerate(tokens)}, len(tokens))


def test_words_are_the_same_whatever_writes_them(tmp_path):
    bytes_ = vocabulary(tmp_path, "Ġthe", "the", "Ã©", "ĠÃ©t", "Ċ", "<|end|>", "Ã")
    pieces = vocabulary(tmp_path, "▁the", "the", "é", "▁ét", "<0x0A>", "<|end|>", "<0xC3>")
    words = vocabulary(tmp_path, "the", "##the", "##é", "ét", "[CLS]", "##<|end|>")
    assert same(bytes_, pieces, 7).tolist() == [0, 1, 2, 3, -1, 5, -1]
    assert same(pieces, words, 6).tolist() == [0, 1, 2, 3, -1, 5]
    assert [byte_row(pieces, bytes_.meanings[row]) for row in (4, 6, 0)] == [4, 6, -1]
    assert [byte_row(bytes_, pieces.meanings[row]) for row in (4, 6)] == [4, 6]


def test_prefixes_are_the_longest_that_are_not_blank(tmp_path):
    model = vocabulary(tmp_path, "Ġ", "Ġth", "Ġthe", "x")
    meanings = vocabulary(tmp_path, "Ġthere", "Ġt", "xx", "ĠĠĠ").meanings
    assert [prefix_row(model, meanings[row]) for row in range(4)] == [2, -1, 3, -1]


def test_rows_hardly_trained_are_told_apart(tmp_path):
    torch.manual_seed(0)
    table, head = torch.randn(400, 16), torch.randn(400, 16)
    away = torch.nn.functional.normalize(torch.randn(16), dim=0) * 8
    table[390:], head[390:] = table[390:] * 0.1 + away, head[390:] * 0.1 - away
    table[7] = away  # like the unused ones
    table[9] *= 0.01
    tokens = vocabulary(tmp_path, *(f"t{n}" for n in range(394)), "<|reserved_special_token_1|>")
    found = trained(tokens, table, head)
    assert not found[[7, 9, *range(390, 400)]].any() and found.float().mean() > 0.93


def test_options_choose_tables(tmp_path):
    model = patient(TINY["LlamaForCausalLM"], tmp_path / "model")
    donor = with_rows(model, tmp_path / "donor", [*WORDS[:20], "w3-ward"], rows=21)
    names = {"embed": "model.embed_tokens.weight", "lm_head": "lm_head.weight"}
    before = tensors(model)
    for where in ("embed", "lm_head", "yes"):
        assert surgeon(model, donor, tmp_path / where, "--prefix-match", where) == 0
        after = tensors(tmp_path / where)
        taken = {key for key, name in names.items() if torch.equal(after[name][20], before[name][3])}
        assert taken == ({"embed", "lm_head"} if where == "yes" else {where})


def test_untrained_rows_are_left_out(tmp_path):
    model = patient(TINY["LlamaForCausalLM"], tmp_path / "model")
    stored = tensors(model)
    stored["model.embed_tokens.weight"][6] *= 1e-3  # a row with a smaller norm than all others
    save_file(stored, model / "model.safetensors", metadata={"format": "pt"})
    donor = with_rows(model, tmp_path / "donor", [*WORDS[:30], "new", "<|unused_token_1|>"], rows=34)
    drawn = tensors(donor)
    drawn["model.embed_tokens.weight"][8] = drawn["model.embed_tokens.weight"][6] * 1e-3
    save_file(drawn, donor / "model.safetensors", metadata={"format": "pt"})
    for name, options in {"plain": (), "looked": ("--magikarp",)}.items():
        assert surgeon(model, donor, tmp_path / name, "-k", 3, *options) == 0
    before, plain, looked = (
        tensors(tmp_path / name)["model.embed_tokens.weight"] for name in ("model", "plain", "looked")
    )
    kept = [torch.equal(looked[row], before[row]) for row in range(30)]
    assert all(torch.equal(plain[row], before[row]) for row in range(30))
    assert (
        not kept[6] and looked[6].any() and np.mean(kept) > 0.8
    )  # built from shared tokens, since the donor's row is trained
    assert plain[31].any() and not looked[31].any()  # named unused
