"""Stages with other vocabularies give bitwise the same result as when each stage is written and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizer_models import byte_level, model

import mergecore

CHAT = ("<|im_start|>", "<|im_end|>")
BESIDE = ("README.md", "mergecore_recipe.yml", "mergecore.lock.json")


def linear(*models: Any, **keys: Any) -> dict[str, Any]:
    entries = [{"model": str(m), "parameters": {"weight": 0.4}} for m in models]
    return {"merge_method": "linear", "models": entries, **keys}


def ties(base: Any, *models: Any, **keys: Any) -> dict[str, Any]:
    entries = [{"model": str(m), "parameters": {"density": 0.5}} for m in models]
    return {"merge_method": "ties", "base_model": str(base), "models": entries, **keys}


UNION, TEMPLATE = {"tokenizer": {"source": "union"}}, "{% for m in messages %}{{ m.content }}!{% endfor %}"
CHAINS = {
    "in the inner stage": lambda a, b, c: [{"name": "mix", **linear(a, b, **UNION)}, ties("mix", "mix", "mix")],
    "in the outer stage": lambda a, b, c: [{"name": "mix", **ties(a, c)}, linear(b, "mix", **UNION)],
    "in both": lambda a, b, c: [
        {"name": "mix", **linear(a, b, tokenizer={"source": "union", "pad_to_multiple_of": 64})},
        ties("mix", c, tokenizer={"source": "base"}, dtype="bfloat16"),
    ],
    "a stage's vocabulary": lambda a, b, c: [
        {"name": "mix", **linear(a, b, **UNION), "chat_template": TEMPLATE},
        {"merge_method": "karcher", "models": [{"model": m} for m in (c, "mix")], "tokenizer_source": "mix"},
    ],
    "a materialized stage": lambda a, b, c: [
        {"name": "mix", "merge_method": "nuslerp", "parameters": {"weight": 0.5, "nuslerp_flatten": False},
         "models": [{"model": a}, {"model": c}]},
        linear(b, "mix", **UNION),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("label", "tied"), [(label, index % 2 == 0) for index, label in enumerate(CHAINS)])
def test_vocabularies_of_stages(tmp_path: Path, label: str, tied: bool) -> None:
    sea = byte_level("sea", special=CHAT)
    a = model(tmp_path / "a", 1, sea, rows=300)
    b = model(tmp_path / "b", 2, byte_level("code"), tie_word_embeddings=tied)
    c = model(tmp_path / "c", 3, sea, rows=300)
    chain = CHAINS[label](str(a), str(b), str(c))
    fused = mergecore.run(chain, tmp_path / "fused")
    stage = mergecore.run({k: v for k, v in chain[0].items() if k != "name"}, tmp_path / "mix")
    text = json.dumps(chain[1]).replace('"mix"', json.dumps(str(stage)))
    apart = mergecore.run(json.loads(text), tmp_path / "apart")
    found, expected = ({f.name: f.read_bytes() for f in d.iterdir() if f.name not in BESIDE} for d in (fused, apart))
    assert found == expected
    assert transformers.AutoTokenizer.from_pretrained(fused).decode(
        transformers.AutoTokenizer.from_pretrained(fused)("the sea").input_ids
    )
    assert not any(transformers.AutoModelForCausalLM.from_pretrained(fused, output_loading_info=True)[1].values())
