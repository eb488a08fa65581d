"""Strangers' tokenizers and chat templates cannot make the plan of a merge take much time or memory."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from measured_runs import measured
from mergecore_tokenizer import chat, growing
from tokenizer_models import byte_level, ids, model

import mergecore
from mergecore.errors import InputError

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
SLOW = {"type": "Replace", "pattern": {"Regex": r"[\s\S]*[\s\S]*(?=\d{9})z?"}, "content": ""}
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [model(tmp_path / name, seed, byte_level(name), rows=400) for seed, name in enumerate(("sea", "code"))]


def recipe_of(models: list[Path], **keys: Any) -> dict[str, Any]:
    entries = [{"model": str(item), "parameters": {"weight": 0.5}} for item in models]
    return {"merge_method": "linear", "models": entries, **keys}


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * 10**10 }}", "it needs more than 0.3 GB of memory"),
        (DOUBLING, "it needs more than 0.3 GB of memory"),
    ],
)
def test_a_template_that_takes_memory_is_refused(models: list[Path], tmp_path: Path, template: str, said: str) -> None:
    (models[1] / "chat_template.jinja").write_text(template)
    (tmp_path / "r.yml").write_text(json.dumps(recipe_of(models, tokenizer={"source": "base"}, chat_template="auto")))
    run = measured("-m", "mergecore", "plan", tmp_path / "r.yml")
    assert run.status == 2
    assert f"{models[1]}: the template cannot be rendered: {said}" in run.said and "choose another one" in run.said
    assert run.peak < 4 * 10**8


@pytest.mark.parametrize("template", [LOOP, "{{ 9**(9**9) }}"])
def test_a_template_that_takes_time_is_refused(
    models: list[Path], template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "SECONDS", 2)
    with pytest.raises(InputError, match=r"the template cannot be rendered: it took longer than 2 s; choose another"):
        mergecore.plan(recipe_of(models, tokenizer={"source": "base"}, chat_template=template))


def test_a_normalizer_that_takes_time_is_refused(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is applied to the added tokens when the tokenizer is loaded."""
    token = {"id": len(ids(models[0])), "content": "x" * 2000, **ADDED}
    never = {"type": "Sequence", "normalizers": [SLOW] * 50}
    change(models[0] / "tokenizer.json", normalizer=never, added_tokens=[token])
    monkeypatch.setattr(growing, "SECONDS", 3)
    with pytest.raises(InputError, match=r"sea: its tokenizer cannot be extended: it took longer than 3 s; use"):
        mergecore.plan(recipe_of(models, tokenizer={"source": "union"}))


def test_a_token_with_many_merges_is_refused(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (models[0] / "tokenizer.json").unlink()
    tokens = [*(bytes([byte]) for byte in range(256)), b"ab", b"ab" * 50_000]
    lines = [f"{base64.b64encode(token).decode()} {number}" for number, token in enumerate(tokens)]
    (models[0] / "q.tiktoken").write_text("\n".join(lines))
    monkeypatch.setattr(growing, "SECONDS", 3)
    with pytest.raises(InputError, match=r"sea: its tokenizer cannot be extended: it took longer than 3 s; use"):
        mergecore.plan(recipe_of(models, tokenizer={"source": "union"}))


def test_a_file_above_the_limit_is_not_read(models: list[Path], tmp_path: Path) -> None:
    os.truncate(models[1] / "tokenizer.json", 10**10)
    (tmp_path / "r.yml").write_text(json.dumps(recipe_of(models, tokenizer={"source": "union"})))
    run = measured("-m", "mergecore", "plan", tmp_path / "r.yml")
    assert run.status == 2 and "code/tokenizer.json: is larger than the limit of 64 MB; download it again" in run.said
    assert run.peak < 3 * 10**8


@pytest.mark.slow
def test_a_huge_list_of_added_tokens_stays_within_the_limits(models: list[Path], tmp_path: Path) -> None:
    large = model(tmp_path / "large", 3, byte_level("code"), rows=101_000)
    many = [{"id": len(ids(large)) + number, "content": f"<{number}>", **ADDED} for number in range(100_000)]
    change(large / "tokenizer.json", added_tokens=many)
    (tmp_path / "r.yml").write_text(json.dumps(recipe_of([models[0], large], tokenizer={"source": "union"})))
    run = measured("-m", "mergecore", "plan", tmp_path / "r.yml")
    assert run.status == 0, run.said
    assert run.peak < 2 * 10**9
