"""Tests for init: its recipes can be planned and have a suitable base, method, dtype, and tokens; rejected input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import typer
import yaml
from mergecore_diff.writing import scalar
from refused_commands import Refused, check_refused, run
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model
from tiny_models import Tiny

import mergecore

FAMILIES = ["llama", "llama-tied", "mistral", "qwen2", "qwen3-tied", "gpt_neox", "phi", "phi3"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def written(models: list[str | Path], monkeypatch, capfd, *options: str) -> dict:
    """Return the recipe that init prints for models, after checking that it plans."""
    status, text, err = run(["init", *map(str, models), *options, "--yes"], monkeypatch, capfd)
    assert status == 0, err
    recipe = yaml.safe_load(text)
    mergecore.plan(recipe).close()
    assert text.startswith("# Written by: mergecore init ") and text.count("#") >= 5
    return recipe


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_recipe_plans(family: str, dtype: str, tiny: Tiny, monkeypatch, capfd) -> None:
    base, one, other, _ = tiny.all(family, dtype=dtype)
    two = written([base, one], monkeypatch, capfd)
    assert (two["merge_method"], two["dtype"]) == ("slerp", dtype)
    assert [item["model"] for item in two["models"]] == [base, one]
    three = written([one, other, base], monkeypatch, capfd)
    assert (three["merge_method"], three["base_model"], three["dtype"]) == ("ties", base, dtype)
    assert {item["model"] for item in three["models"]} == {one, other}


def copy(model: Path, out: Path, noise: float, seed: int, **config: object) -> Path:
    shutil.copytree(model, out)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(model / "model.safetensors")
    save_file(
        {name: tensor + torch.randn(tensor.shape, generator=generator) * noise for name, tensor in tensors.items()},
        out / "model.safetensors",
    )
    (out / "config.json").write_text(json.dumps({**json.loads((out / "config.json").read_text()), **config}))
    return out


def test_models_that_learnt_the_same_are_averaged(tmp_path: Path, monkeypatch, capfd) -> None:
    base = write_model(tmp_path / "base", 0)
    first = copy(base, tmp_path / "first", 0.1, 1)
    models = [copy(first, tmp_path / f"m{seed}", 0.05, seed) for seed in (2, 3)]
    found = written([base, *models], monkeypatch, capfd, "--base", str(base))
    assert found["merge_method"] == "linear" and len(found["models"]) == 2 and "base_model" not in found


def test_models_without_a_base_among_them_are_averaged(tmp_path: Path, monkeypatch, capfd) -> None:
    base = write_model(tmp_path / "base", 0)
    models = [copy(base, tmp_path / f"m{seed}", 0.1, seed) for seed in (1, 2, 3)]
    found = written(models, monkeypatch, capfd)
    assert found["merge_method"] == "linear" and "base_model" not in found and len(found["models"]) == 3


@pytest.mark.parametrize("card", ["---\nbase_model: org/base\n---\n", "---\nbase_model:\n- org/base\n---\n"])
def test_a_card_tells_the_base_of_two(tmp_path: Path, card: str, monkeypatch, capfd) -> None:
    base = write_model(tmp_path / "base", 0)
    tuned = copy(base, tmp_path / "tuned", 0.1, 1)
    (tuned / "README.md").write_text(card)
    found = written([tuned, base], monkeypatch, capfd)
    assert found["base_model"] == str(base) and [item["model"] for item in found["models"]] == [str(base), str(tuned)]


def test_other_tokens_bring_a_tokenizer(tmp_path: Path, monkeypatch, capfd) -> None:
    base = write_model(tmp_path / "base", 0)
    tuned, rows = copy(base, tmp_path / "tuned", 0.1, 1, vocab_size=14), 14
    tensors = load_file(tuned / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], torch.zeros(rows - 12, 8)])
    save_file(tensors, tuned / "model.safetensors")
    for folder, count in ((base, 12), (tuned, 14)):
        words = {f"t{number}": number for number in range(count)}
        model = {"type": "WordLevel", "vocab": words, "unk_token": "t0"}
        (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    assert written([base, tuned], monkeypatch, capfd)["tokenizer"] == {"source": "union"}
    assert written([tuned, base], monkeypatch, capfd, "--base", str(tuned))["tokenizer"] == {"source": "base"}


def test_at_most_four_questions_are_asked(tmp_path: Path, monkeypatch, capfd) -> None:
    base = write_model(tmp_path / "base", 0)
    models = [base, *(copy(base, tmp_path / f"m{seed}", 0.1, seed) for seed in (1, 2))]
    answers, asked = iter(["", "no such", "dare_ties", "float16"]), []

    def prompt(text: str, default: str, err: bool) -> str:
        asked.append(text)
        return next(answers) or default

    monkeypatch.setattr("typer.prompt", prompt)
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    status, text, err = run(["init", *map(str, models), "-o", str(tmp_path / "r.yml")], monkeypatch, capfd)
    assert (status, text) == (0, "") and "'no such' is not one of the options" in err
    found = yaml.safe_load((tmp_path / "r.yml").read_text())
    assert (found["base_model"], found["merge_method"], found["dtype"]) == (str(base), "dare_ties", "float16")
    assert len(asked) == 4, "one of the three questions was asked twice"
    mergecore.run(tmp_path / "r.yml", tmp_path / "out")


def test_no_answer_is_said(tmp_path: Path, monkeypatch, capfd) -> None:
    models = [write_model(tmp_path / "base", 0), copy(tmp_path / "base", tmp_path / "tuned", 0.1, 1)]
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", lambda *_, **__: (_ for _ in ()).throw(typer.Abort()))
    status, _, err = run(["init", *map(str, models)], monkeypatch, capfd)
    assert status == 2 and "error: no answer was given; pass --yes to skip the questions" in err


@pytest.mark.parametrize("text", ["plain", "a: b", "# x", "-1", "true", "a\nb", "'\"", "ü\U0001f600", "", "&a *b"])
def test_any_path_is_one_yaml_value(text: str) -> None:
    assert yaml.safe_load(f"x: {scalar(text)}  # comment") == {"x": text} and "\n" not in scalar(text)


REFUSED = {
    "no model": Refused("init", "Missing argument"),
    "one model": Refused("init base", "provide at least two models"),
    "one model twice": Refused("init base base", "base: given twice"),
    "no such model": Refused("init base bsae", "bsae: no such folder"),
    "no such base": Refused("init base code --base bsae", "bsae: no such folder"),
    "a file": Refused("init base base/config.json", "no such folder"),
    "an adapter": Refused("init base adapter", "adapter: is an adapter, not a model"),
    "a recipe that is there": Refused("init base code -o there.yml", "there.yml: already exists"),
    "a recipe that is a folder": Refused("init base code -o base", "base: already exists"),
    "a recipe in no folder": Refused("init base code -o no/r.yml", "does not exist; create it first"),
    "a stranger": Refused("init base stranger", "were not trained from the same base"),
    "a stranger among others": Refused("init base code stranger", "stranger and base were not trained"),
    "another depth": Refused("init base deep", "do not have the same weights: only one has 'model.layers.2"),
    "another depth as base": Refused("init deep base", "do not have the same weights"),
    "another width": Refused("init base wide", "differ in the shape of"),
    "another class": Refused("init base bert", "do not have the same weights"),
    "a file that was cut": Refused("init base cut", "does not match its shape or the file"),
    "a config that is no JSON": Refused("init base broken", "cannot be parsed as JSON"),
    "a base of no class": Refused("init classless base", "config.json must name one model class"),
    "a damaged tokenizer": Refused("init base tokens", "tokenizer.json: must contain a JSON object"),
    "no such architectures": Refused("init base code --arch-dir no", "no: no such architecture file or folder"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refused")
    base = write_model(path / "base", 0)
    for seed, name in enumerate(("code", "cut", "broken", "classless", "tokens", "bert", "wide"), 1):
        copy(base, path / name, 0.1, seed)
    write_model(path / "stranger", 9)
    write_model(path / "deep", 2, num_hidden_layers=3)
    tensors = load_file(path / "wide/model.safetensors")
    gates = {name: torch.cat([tensor, tensor]) for name, tensor in tensors.items() if "gate" in name}
    save_file({**tensors, **gates}, path / "wide/model.safetensors")
    save_file({"embeddings.weight": torch.ones(2, 2)}, path / "bert/model.safetensors")
    (path / "bert/config.json").write_text('{"architectures": ["BertModel"], "num_hidden_layers": 0}')
    (path / "adapter").mkdir()
    (path / "adapter/adapter_config.json").write_text("{}")
    (path / "there.yml").write_text("mine")
    with (path / "cut/model.safetensors").open("r+b") as file:
        file.truncate(3000)
    (path / "broken/config.json").write_text("{")
    (path / "classless/config.json").write_text('{"num_hidden_layers": 2}')
    (path / "tokens/tokenizer.json").write_text("[]")
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_command_is_refused_in_one_sentence(name: str, folder: Path, monkeypatch, capfd) -> None:
    check_refused(REFUSED[name], folder, monkeypatch, capfd)
