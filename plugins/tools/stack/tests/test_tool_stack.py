"""Tests for stack: its recipes can be planned, run, and loaded with the drawn or listed layers; rejected input."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from mergecore_stack.drawing import Run, joined, scattered, shares, shuffled
from refused_commands import Refused, check_refused, run
from safetensors.torch import load_file
from tiny_llamas import write_model
from tiny_models import Tiny

import mergecore


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.2, 0.5, 0.3), (0.0, 1.0)])
def test_every_layer_is_drawn_once_and_as_often_as_the_weights_say(seed: int, weights: tuple[float, ...]) -> None:
    kept = shuffled(400, weights, seed)
    assert [index for item in kept for index in range(item.start, item.end)] == list(range(400))
    assert kept == shuffled(400, weights, seed) and all(
        one.model != other.model for one, other in itertools.pairwise(kept)
    )
    drawn = Counter(item.model for item in kept for _ in range(item.start, item.end))
    anywhere = scattered(400, weights, seed)
    counts = Counter(item.model for item in anywhere for _ in range(item.start, item.end))
    for model, weight in enumerate(weights):
        assert abs(drawn[model] - 400 * weight / sum(weights)) < 60
        assert counts[model] == 400 * weight / sum(weights)


def test_shares_add_up() -> None:
    draw = random.Random(1)
    for _ in range(200):
        weights = [draw.random() for _ in range(draw.randrange(1, 6))]
        total = draw.randrange(1, 80)
        counts = shares(total, weights)
        assert sum(counts) == total
        assert all(abs(count - total * weight / sum(weights)) < 1 for count, weight in zip(counts, weights))


def test_neighbors_are_joined() -> None:
    assert joined([Run(0, 0, 1), Run(0, 1, 3), Run(1, 3, 4), Run(0, 4, 5)]) == [
        Run(0, 0, 3),
        Run(1, 3, 4),
        Run(0, 4, 5),
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("family", ["llama", "qwen2-tied", "gpt_neox"])
@pytest.mark.parametrize("options", [[], ["--full-random"]])
def test_a_shuffled_model_holds_the_layers_that_the_recipe_names(
    tiny: Tiny, family: str, options: list[str], tmp_path: Path, monkeypatch, capfd
) -> None:
    models = [tiny(family, number) for number in (1, 2)]
    command = ["stack", "shuffle", *models, "-w", "0.4", "-w", "0.6", "--seed", "11", *options]
    status, text, _ = run(command, monkeypatch, capfd)
    assert status == 0 and run(command, monkeypatch, capfd) == (0, text, "")
    assert text.startswith("# mergecore stack shuffle ") and "--seed=11" in text.splitlines()[0]
    value = yaml.safe_load(text)
    mergecore.run(value, tmp_path / "out")
    weights = {model: load_file(Path(model) / "model.safetensors") for model in models}
    out, layer = load_file(tmp_path / "out/model.safetensors"), 0
    for source in (item["sources"][0] for item in value["slices"]):
        for index in range(*source["layer_range"]):
            mine = {name: tensor for name, tensor in out.items() if f"layers.{layer}." in name}
            assert mine
            for name, tensor in mine.items():
                there = name.replace(f"layers.{layer}.", f"layers.{index}.")
                assert torch.equal(tensor, weights[source["model"]][there])
            layer += 1
    _, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_slices_are_stacked_and_scaled(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        write_model(tmp_path / name, seed)
    Path("s.yml").write_text(
        "layer_slices:\n- {model: a, start: 0, end: 2}\n- {model: b, start: 0, end: 2, scale: 0.5}\n"
        "embedding_source: a\nlm_head_source: b\n"
    )
    status, _, err = run(["stack", "slices", "s.yml", "--write", "r.yml", "--dtype", "float32"], monkeypatch, capfd)
    assert status == 0 and "wrote r.yml; next: mergecore run r.yml OUT" in err
    mergecore.run("r.yml", tmp_path / "out")
    out, (a, b) = load_file("out/model.safetensors"), (load_file(f"{name}/model.safetensors") for name in "ab")
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 4
    assert torch.equal(out["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(out["lm_head.weight"], b["lm_head.weight"])
    assert torch.equal(out["model.layers.3.mlp.down_proj.weight"], b["model.layers.1.mlp.down_proj.weight"] * 0.5)
    assert torch.equal(out["model.layers.3.mlp.up_proj.weight"], b["model.layers.1.mlp.up_proj.weight"])


def test_the_part_to_stack_is_named_where_there_are_several(tmp_path: Path, monkeypatch, capfd) -> None:
    from zoo.composites import MODELS

    model = next(item for item in MODELS if item.name == "LlavaForConditionalGeneration")
    model.build().save_pretrained(tmp_path / "a")
    model.build().save_pretrained(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    status, _, err = run(["stack", "shuffle", "a", "b"], monkeypatch, capfd)
    assert status == 2 and "choose one with --module" in err
    part = err.split("has layers in ")[1].split(",")[0]
    status, text, err = run(["stack", "shuffle", "a", "b", "--module", part], monkeypatch, capfd)
    assert status == 0, err
    assert "slices" in yaml.safe_load(text)["modules"][part]
    mergecore.plan(yaml.safe_load(text)).close()


GOOD = "- {model: a, start: 0, end: 2}\n"
FILES = {
    "list.yml": GOOD,
    "nothing.yml": "layer_slices: []\n",
    "unknown.yml": f"layer_slicse:\n{GOOD}",
    "more.yml": f"layer_slices:\n{GOOD}color: blue\n",
    "negative.yml": "layer_slices:\n- {model: a, start: -1, end: 2}\n",
    "reversed.yml": "layer_slices:\n- {model: a, start: 2, end: 1}\n",
    "beyond.yml": "layer_slices:\n- {model: a, start: 0, end: 9}\n",
    "scale.yml": "layer_slices:\n- {model: a, start: 0, end: 2, scale: much}\n",
    "head.yml": f"layer_slices:\n{GOOD}lm_head_source: b\n",
    "embedding.yml": f"layer_slices:\n{GOOD}embedding_source: b\n",
    "nobody.yml": "layer_slices:\n- {model: c, start: 0, end: 2}\n",
    "good.yml": f"layer_slices:\n{GOOD}",
    "bracket.yml": "layer_slices: [\n",
    "blank.yml": "",
    "endless.yml": "layer_slices:\n- {model: a, start: 0}\n",
    "words.yml": "layer_slices:\n- {model: a, start: first, end: 2}\n",
    "odd.yml": "layer_slices:\n- {model: a, start: 0, end: 2, sclae: 2}\n",
    "mixed.yml": "layer_slices:\n- {model: a, start: 0, end: 1}\n- {model: wide, start: 1, end: 2}\n",
}
REFUSED = {
    "no model": Refused("stack shuffle", "Missing argument"),
    "one model": Refused("stack shuffle a", "provide at least two models"),
    "no such model": Refused("stack shuffle a c", "c: no such folder"),
    "too few weights": Refused("stack shuffle a b -w 1", "--weight: 1 given for 2 models"),
    "a weight below zero": Refused("stack shuffle a b -w 1 -w -1", "must be nonnegative numbers"),
    "all weights zero": Refused("stack shuffle a b -w 0 -w 0", "that are not all 0"),
    "a weight that is no number": Refused("stack shuffle a b -w 1 -w nan", "must be nonnegative numbers"),
    "a weight in words": Refused("stack shuffle a b -w much -w 1", "--weight"),
    "other depths": Refused("stack shuffle a deep", "the same number of layers, not a: 2, deep: 3"),
    "other shapes": Refused("stack shuffle a wide --seed 1", "differ"),
    "an unknown module": Refused("stack shuffle a b --module text", "has no layers in 'text', only in: default"),
    "a dtype misspelt": Refused("stack shuffle a b --dtype bflaot16", "did you mean 'bfloat16'?"),
    "a seed below zero": Refused("stack shuffle a b --seed -1", "--seed"),
    "a recipe that is there": Refused("stack shuffle a b --write good.yml", "good.yml: already exists"),
    "a recipe in no folder": Refused("stack shuffle a b --write no/r.yml", "does not exist; create it first"),
    "a file for a model": Refused("stack shuffle a good.yml", "good.yml: no such folder"),
    "a model without files": Refused("stack shuffle a empty", "empty: has no config.json, so it is not a model"),
    "a seed in words": Refused("stack shuffle a b --seed one", "Invalid value for '--seed'"),
    "a recipe that is a folder": Refused("stack shuffle a b --write a", "a: is a folder; use the name of a file"),
    "an unknown option": Refused("stack shuffle a b --sed 1", "No such option: --sed|No such option '--sed'"),
    "an unknown command": Refused("stack shufle a b", "No such command 'shufle'"),
    "no such file": Refused("stack slices nowhere.yml", "nowhere.yml: no such file"),
    "a list": Refused("stack slices list.yml", "must be a mapping"),
    "no slices": Refused("stack slices nothing.yml", "layer_slices: must not be empty"),
    "slices misspelt": Refused("stack slices unknown.yml", "did you mean 'layer_slices'?"),
    "an unknown key": Refused("stack slices more.yml", "unknown key 'color'"),
    "a layer below zero": Refused("stack slices negative.yml", "must be at least 0, not -1"),
    "layers reversed": Refused("stack slices reversed.yml", "reversed.yml:2: layer_slices[0].end: must be greater"),
    "layers beyond the model": Refused("stack slices beyond.yml", "a has 2 layers, not 9"),
    "a scale in words": Refused("stack slices scale.yml", "must be a number, not 'much'"),
    "another model's head": Refused("stack slices head.yml", "it must be 'a', the model of the last slice"),
    "another model's embedding": Refused("stack slices embedding.yml", "it must be 'a', the model of the first slice"),
    "a slice of nobody": Refused("stack slices nobody.yml", "c: no such folder"),
    "no slices file": Refused("stack slices", "Missing argument 'config'|Missing argument 'CONFIG'"),
    "no YAML": Refused("stack slices bracket.yml", "bracket.yml:2: this is not valid YAML"),
    "an empty file": Refused("stack slices blank.yml", "blank.yml: the file is empty"),
    "a model for a file": Refused("stack slices a", "a: cannot be read as text"),
    "a slice without end": Refused("stack slices endless.yml", "endless.yml:2: layer_slices[0]: 'end' is missing"),
    "a layer in words": Refused("stack slices words.yml", "start: must be a whole number, not 'first'"),
    "a key of a slice": Refused("stack slices odd.yml", "unknown key 'sclae'; did you mean 'scale'?"),
    "other vocabularies": Refused("stack slices mixed.yml", "their vocabularies differ, so choose one"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refused")
    for seed, name in enumerate(("a", "b")):
        write_model(path / name, seed)
    write_model(path / "deep", 2, num_hidden_layers=3)
    write_model(path / "wide", 2, vocab_size=20)
    (path / "empty").mkdir()
    for name, text in FILES.items():
        (path / name).write_text(text)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_command_is_refused_in_one_sentence(name: str, folder: Path, monkeypatch, capfd) -> None:
    check_refused(REFUSED[name], folder, monkeypatch, capfd)
