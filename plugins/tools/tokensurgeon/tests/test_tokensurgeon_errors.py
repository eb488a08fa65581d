"""Errors are reported in one sentence with exit status 2, and leave no files behind."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from patients import TINY, WORDS, patient, put_words, surgeon, tensors, with_rows


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    model = patient(TINY["LlamaForCausalLM"], folder / "model")
    with_rows(model, folder / "donor", [*WORDS[:30], "new0", "new1"], rows=32)
    return folder


def edited(name: str, **changes: object):
    def edit(folder: Path) -> None:
        path = folder / name
        value = {**json.loads(path.read_text("utf-8")), **changes}
        path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}), "utf-8")

    return edit


def text(name: str, content: str):
    return lambda folder: (folder / name).write_text(content, "utf-8")


def without(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


def strangers(folder: Path) -> None:
    put_words(folder, [f"x{number}" for number in range(32)])


def reshaped(change):
    def edit(folder: Path) -> None:
        stored = change(tensors(folder))
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def few_heads(stored):
    return {**stored, "lm_head.weight": stored["lm_head.weight"][:7].contiguous()}


def numbers(stored):
    return {**stored, "model.embed_tokens.weight": torch.ones(32, 16, dtype=torch.int32)}


def headless(stored):
    return {
        name: tensor for name, tensor in stored.items() if name not in ("model.embed_tokens.weight", "lm_head.weight")
    }


SAME = None
CASES = {
    "no such model": (SAME, SAME, ("nowhere", "donor", "out"), "nowhere: no such folder"),
    "no such donor": (SAME, SAME, ("model", "nowhere", "out"), "nowhere: no such folder"),
    "out is the model": (SAME, SAME, ("model", "donor", "model"), "is or contains"),
    "out is the donor": (SAME, SAME, ("model", "donor", "donor", "--force"), "is or contains"),
    "out is a file": (SAME, text("../out", ""), ("model", "donor", "out"), "is a file; use the name of a folder"),
    "out exists": (SAME, lambda folder: shutil.copytree(folder, folder.parent / "out"), ("model", "donor", "out"),
                   "already exists; use another name, or --force"),
    "unknown method": (SAME, SAME, ("model", "donor", "out", "-a", "ompp"), "'ompp' is not one of 'omp'"),
    "k of nothing": (SAME, SAME, ("model", "donor", "out", "-k", "0"), "-k"),
    "a match nowhere": (SAME, SAME, ("model", "donor", "out", "--byte-match", "head"), "'head' is not one of 'no'"),
    "noise below none": (SAME, SAME, ("model", "donor", "out", "--noise", "-1"), "--noise"),
    "noise of no size": (SAME, SAME, ("model", "donor", "out", "--noise", "nan"),
                         "Invalid value for '--noise'|--noise: must be a finite number"),
    "scale of no size": (SAME, SAME, ("model", "donor", "out", "--scale", "inf"), "--scale: must be a finite number"),
    "no memory": (SAME, SAME, ("model", "donor", "out", "--memory", "4KB"), "MB allowed; use --memory"),
    "memory in words": (SAME, SAME, ("model", "donor", "out", "--memory", "much"), "--memory: 'much' is not a size"),
    "a donor without tokenizer": (SAME, without("tokenizer.json", "tokenizer_config.json"), ("model", "donor", "out"),
                                  "donor: has no tokenizer files, such as tokenizer.json"),
    "a model without tokenizer": (without("tokenizer.json", "tokenizer_config.json"), SAME, ("model", "donor", "out"),
                                  "model: has no tokenizer files, such as tokenizer.json"),
    "a broken tokenizer": (SAME, text("tokenizer.json", '{"model": 3}'), ("model", "donor", "out"),
                           "tokenizer.json: is not a tokenizer"),
    "settings that are none": (SAME, text("tokenizer_config.json", "[1]"), ("model", "donor", "out"),
                               "tokenizer_config.json"),
    "no token in common": (SAME, strangers, ("model", "donor", "out"), "have no token in common"),
    "subword without text": (text("tokenizer.json", '{"model": {"vocab": {"w1": 1}}}'), SAME,
                             ("model", "donor", "out", "-a", "subword"), "--method subword needs the model's"),
    "no rotation": (SAME, edited("config.json", num_attention_heads=7), ("model", "donor", "out", "-a", "mp_rope"),
                    "--method mp_rope: requires rotary position embeddings"),
    "a head of another size": (SAME, reshaped(few_heads), ("model", "donor", "out"), "rows, but the embedding has 32"),
    "rows that are no weights": (SAME, reshaped(numbers), ("model", "donor", "out"), "is stored as I32"),
    "no embedding": (SAME, reshaped(headless), ("model", "donor", "out"), "has no embedding with one row per token"),
    "truncated weights": (SAME, lambda folder: (folder / "model.safetensors").write_bytes(b"\x08"),
                          ("model", "donor", "out"), "model.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_mistake_is_one_sentence(case, good, tmp_path, monkeypatch, capsys):
    model, donor, words, sentence = case
    shutil.copytree(good, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    for folder, edit in {"model": model, "donor": donor}.items():
        if edit is not None:
            edit(Path(folder).absolute())
    before = sorted(Path().rglob("*"))
    assert surgeon(*words) == 2
    error = capsys.readouterr().err
    assert any(words in error for words in sentence.split("|"))
    assert "Traceback" not in error and error.count("error:") == 1
    assert [path for path in sorted(Path().rglob("*")) if path.suffix != ".lock"] == before
