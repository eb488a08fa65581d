"""Gathered rows read like a stored tensor from any position, and the plan rejects mismatched vocabularies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llamas import write_model

import mergecore
from mergecore.api import TensorInfo
from mergecore.errors import InputError
from mergecore.models.checkpoint import Checkpoint
from mergecore.models.row_reader import MEAN, ZERO, Rows


class InMemory:
    """A reader with one tensor."""

    def __init__(self, tensor: torch.Tensor, dtype: str) -> None:
        self.tensors = {"x": TensorInfo(dtype, tuple(tensor.shape))}
        self._flat = tensor.flatten()

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        out.copy_(self._flat[start : start + len(out)])


@st.composite
def gathers(draw: st.DrawFn) -> tuple[Rows, np.ndarray]:
    """A gathered tensor and its expected values, computed row by row in NumPy."""
    width = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    half = [draw(st.booleans()) for _ in range(3)]
    seed = draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    tables = [rng.standard_normal((draw(st.integers(2, 9)), *width)).astype("f2" if h else "f4") for h in half]
    size = draw(st.integers(1, 14))
    origin, row = np.full(size, ZERO), np.full(size, -1)
    means, expected = np.full((3, size), -1), np.zeros((size, *width), "f4")
    for index in range(size):
        kind = draw(st.sampled_from(["next", "one", "mean", "zero"]))
        if kind == "next" and index and 0 <= row[index - 1] < len(tables[origin[index - 1]]) - 1:
            origin[index], row[index] = origin[index - 1], row[index - 1] + 1
        elif kind in ("one", "next"):
            origin[index] = rng.integers(3)
            row[index] = rng.integers(len(tables[origin[index]]))
        elif kind == "mean":
            origin[index] = MEAN
            means[:2, index] = [rng.integers(len(table)) for table in tables[:2]]
            expected[index] = (tables[0][means[0, index]].astype("f4") + tables[1][means[1, index]]) / 2
        if origin[index] >= 0:
            expected[index] = tables[origin[index]][row[index]]
    readers = [InMemory(torch.from_numpy(table), "F16" if h else "F32") for table, h in zip(tables, half)]
    parts = [(Checkpoint("m", Path(), {}, reader.tensors, {"x": reader}, [reader], {}), "x") for reader in readers]
    return Rows(parts, origin, row, means), expected


@given(case=gathers(), cut=st.integers(1, 11))
@settings(max_examples=150, deadline=None)
def test_gathered_rows_are_those_named_wherever_they_are_cut(case: tuple[Rows, np.ndarray], cut: int) -> None:
    gathered, expected = case
    dtype = {"F16": torch.float16, "F32": torch.float32}[gathered.info.dtype]
    flat = torch.full((expected.size,), float("nan"), dtype=dtype)
    for start in range(0, len(flat), cut):
        gathered.read(start, flat[start : start + cut])
    assert gathered.info.shape == expected.shape
    assert np.array_equal(flat.float().numpy().reshape(expected.shape), expected)


def put_tokens(folder: Path, tokens: dict[str, int]) -> None:
    text = json.dumps({"model": {"type": "BPE", "vocab": tokens, "merges": []}, "added_tokens": []})
    (folder / "tokenizer.json").write_text(text, "utf-8")


def linear(*models: Path, **keys: object) -> dict[str, object]:
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    return {"merge_method": "linear", "models": entries, **keys}


ABC = {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"a": 0, "c": 1, "b": 2}, "row 1 is 'c' in"),
        ({"a": 0, "b": 1, "d": 2}, "row 2 is 'd' in"),
        ({"a": 0, "b": 1, "c": 5}, "row 5 is 'c' in"),
    ],
)
def test_rows_that_mean_other_tokens_are_refused(models: list[Path], theirs: dict[str, int], said: str) -> None:
    for model, tokens in zip(models, (ABC, theirs)):
        put_tokens(model, tokens)
    with pytest.raises(InputError, match=said) as raised:
        mergecore.plan(linear(*models[:2]))
    assert "tokenizer: {source: base}" in str(raised.value) and "tokenizer: {source: union}" in str(raised.value)


@pytest.mark.parametrize("theirs", [ABC, {**ABC, "<pad>": 11}, {**ABC, "<pad>": 13}, None])
def test_vocabularies_that_agree_where_both_have_rows_are_merged(models: list[Path], theirs: dict | None) -> None:
    put_tokens(models[0], {**ABC, "<late>": 13})
    if theirs is not None:
        put_tokens(models[1], theirs)
    plan = mergecore.plan(linear(*models[:2]))
    plan.close()
    assert any("'<pad>'" in note for note in plan.notes) is (theirs == {**ABC, "<pad>": 11})


def test_rows_of_one_model_and_config_of_another_are_refused(tmp_path: Path) -> None:
    small, large = write_model(tmp_path / "small", 1), write_model(tmp_path / "large", 2, vocab_size=15)
    ranges = [{"sources": [{"model": str(model), "layer_range": [0, 1]}]} for model in (small, large)]
    with pytest.raises(InputError, match=r"lm_head.weight: has 15 rows in .*large but 12 in .*small.*source: base"):
        mergecore.plan({"merge_method": "passthrough", "slices": ranges})


def test_a_tokenizer_that_no_plugin_makes_is_refused(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergecore.discovery.registry.Registry.tokenizer", lambda self, request: None)
    for key in ({"tokenizer": {"source": "base"}}, {"tokenizer_source": "union"}, {"chat_template": "chatml"}):
        with pytest.raises(InputError, match=f"{next(iter(key))}: .*pip install mergecore-tokenizer"):
            mergecore.plan(linear(*models[:2], **key))
    with pytest.raises(InputError, match="cannot be used together"):
        mergecore.plan(linear(*models[:2], tokenizer={"source": "base"}, tokenizer_source="base"))
