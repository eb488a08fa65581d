"""The health check matches float64 numbers from transformers, and tells good merges from broken ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mergecore_eval import health
from mergecore_eval.checkup import ANSWER, QUESTION, SAMPLE, NotFinite, Predictions, losses, repeated, with_answer
from mergecore_eval.figures import Figures, judge, table
from mergecore_eval.subjects import Folder
from safetensors.torch import load_file, save_file
from talkers import teach

from mergecore.api import MergedModel, ModelInfo, TensorInfo

TEMPLATE = "{% for m in messages %}<s>{{ m.content }} </s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"


def changed(folder: Path, to: Path, factor: float, noise: float = 0.0) -> Path:
    """A copy of a model with scaled weights and some noise."""
    shutil.copytree(folder, to)
    torch.manual_seed(1)
    state = load_file(to / "model.safetensors")
    made = {name: tensor * factor + noise * torch.randn_like(tensor) for name, tensor in state.items()}
    save_file(made, to / "model.safetensors", {"format": "pt"})
    return to


@pytest.fixture
def chatty(talker: Path) -> Path:
    """The tiny model with a chat template that puts a space before the end-of-turn token."""
    (talker / "chat_template.jinja").write_text(TEMPLATE)
    return talker


def exact(folder: Path, ids: list[int]) -> torch.Tensor:
    """Log-probabilities at each position, computed entirely in float64."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


def measure(subject: Folder, merge: Predictions | None) -> tuple[Figures, Predictions]:
    figures, predictions = losses(subject, merge)
    return with_answer(figures, subject), predictions


def test_figures_are_those_of_transformers_in_float64(chatty: Path, tmp_path: Path) -> None:
    other = changed(chatty, tmp_path / "other", 1.0, 0.1)
    text = SAMPLE.read_bytes()
    letters = Folder(chatty, "").tokenizer(text.decode(), add_special_tokens=False)["input_ids"]
    ids = [256, *letters][:512]
    p, q = exact(other, ids)[:-1], exact(chatty, ids)[:-1]
    merge, predictions = measure(Folder(chatty, "merge"), None)
    assert merge.divergence is None
    assert merge.loss == pytest.approx(-q.gather(1, torch.tensor(ids[1:])[:, None]).mean().item(), rel=1e-6)
    assert merge.loss_per_byte == pytest.approx(merge.loss * len(letters) / len(text), rel=1e-6)
    same, _ = measure(Folder(chatty, "same"), predictions)
    assert same == replace(merge, name="same", divergence=same.divergence) and abs(same.divergence or 0.0) < 1e-6
    parent, _ = measure(Folder(other, "parent"), predictions)
    assert parent.divergence == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    chat = f"<s>{QUESTION} </s><s>{ANSWER} "
    row = exact(chatty, Folder(chatty, "").tokenizer(chat, add_special_tokens=False)["input_ids"])[-1]
    assert (merge.stop, merge.ends) == (pytest.approx(row[257].exp().item(), rel=1e-4), True)
    assert 0 < merge.written <= 64


def test_the_place_where_numbers_end_is_named(talker: Path, tmp_path: Path) -> None:
    huge = changed(talker, tmp_path / "huge", 1.0)
    state = load_file(huge / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"] *= 1e38
    save_file(state, huge / "model.safetensors", {"format": "pt"})
    with pytest.raises(NotFinite, match=r"^model\.layers\.1\.mlp\.(up|down)_proj$"):
        measure(Folder(huge, ""), None)


def test_what_repeats_is_what_was_there_before() -> None:
    assert repeated([]) == repeated([1, 2, 3]) == repeated(list(range(9))) == 0.0
    assert repeated([7] * 11) == 7 / 8 and repeated([1, 2, 3, 4, 9, 1, 2, 3, 4]) == pytest.approx(1 / 6)


WELL = Figures("well", 400, 2.5, 0.625, 10.8, 0.1, 0.1, 0.9, True, 20, True, "The sea.")
VERDICTS: dict[str, tuple[Figures, list[Figures], str]] = {
    "as its parents": (replace(WELL, loss=2.9, loss_per_byte=0.725), [WELL], "healthy: loss 2.90 per token"),
    "better": (WELL, [replace(WELL, loss=4.0, loss_per_byte=1.0)], "healthy: loss 2.50 per token, its parent has 4.00"),
    "worse": (replace(WELL, loss=3.2, loss_per_byte=0.8), [WELL, WELL], "doubtful: loss 3.20 per token, its parents"),
    "lost": (replace(WELL, loss=6.0, loss_per_byte=1.5), [WELL], "broken: loss 6.00 per token, its parent has 2.50"),
    "other words": (WELL, [replace(WELL, loss=5.0, divergence=None)], "healthy: loss 0.62 per byte"),
    "hasty": (replace(WELL, trouble="no time"), [WELL], "inconclusive: no time; loss 2.50 per token, its parent"),
    "hasty and lost": (replace(WELL, trouble="no time", loss=6.0, loss_per_byte=1.5), [WELL], "broken: loss 6.00"),
    "mute": (replace(WELL, tokens=99), [WELL], "inconclusive: only 99 known tokens of the text were measured"),
    "alone": (WELL, [], "healthy: loss 2.50 per token (random guessing has 10.80)"),
    "alone and poor": (replace(WELL, loss=5.5), [], "inconclusive: its loss is closer to random guessing than"),
    "alone and lost": (replace(WELL, loss=11.0), [], "broken: loss 11.00 per token (random guessing has 10.80)"),
    "alone and mute": (replace(WELL, tokens=15, loss=11.0), [], "inconclusive: only 15 known tokens"),
    "alone and hasty": (replace(WELL, trouble="no time"), [], "inconclusive: no time; loss 2.50 per token"),
    "a lone parrot": (replace(WELL, repeated=0.7), [], "inconclusive: repeats itself in 70% of an answer, which"),
    "alone and endless": (replace(WELL, stop=0.01), [], "inconclusive: ends a finished answer with probability 0.01"),
    "alone, another end": (replace(WELL, ends=False), [], "inconclusive: generation does not stop at the end-of-turn"),
    "a parrot": (
        replace(WELL, repeated=0.7),
        [WELL],
        "doubtful: repeats itself in 70% of an answer, its parents in",
    ),
    "of parrots": (replace(WELL, repeated=0.7), [WELL, replace(WELL, repeated=0.6)], "healthy"),
    "endless": (replace(WELL, stop=0.01), [WELL], "doubtful: ends a finished answer with probability 0.01, a"),
    "of endless ones": (replace(WELL, stop=0.01), [replace(WELL, stop=0.4)], "healthy"),
    "another end": (replace(WELL, ends=False), [WELL], "doubtful: generation does not stop at the end-of-turn token"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_follows_from_what_was_measured(name: str) -> None:
    merge, parents, said = VERDICTS[name]
    assert str(judge(merge, parents)).startswith(said)
    assert len({len(line) for line in table([merge, *parents])}) == 1


def command(*arguments: Any) -> str:
    """Run a command with health checks enabled and return what it prints."""
    words = [sys.executable, "-m", "mergecore", *map(str, arguments)]
    environment = {**os.environ, "MERGECORE_DISABLE": ""}
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stderr


def write_recipe(path: Path, weight: float, *models: Path) -> Path:
    lines = "".join(f"- {{model: {model}, parameters: {{weight: {weight}}}}}\n" for model in models)
    path.write_text(f"merge_method: linear\nparameters: {{normalize: false}}\nmodels:\n{lines}")
    return path


def test_a_merge_is_looked_at_alone_or_compared_or_not_at_all(chatty: Path, tmp_path: Path) -> None:
    teach(chatty, SAMPLE.read_text("utf-8"))
    recipe = write_recipe(tmp_path / "r.yml", 0.5, chatty, changed(chatty, tmp_path / "tuned", 1.0, 0.001))
    out = tmp_path / "out"
    said = command("run", recipe, out)
    found = json.loads((out / "mergecore_health.json").read_text())
    assert [model["name"] for model in found["models"]] == ["out"]
    # The template is one that the model was not trained with.
    assert found["verdict"] == "inconclusive" and "ends a finished answer" in found["reason"]
    assert f"out is inconclusive: {found['reason']}\nto compare a merge with its parents, use --health full\n" in said
    assert f"Inconclusive: {found['reason'].replace('_', chr(92) + '_')}" in (out / "README.md").read_text()
    (chatty / "chat_template.jinja").unlink()
    assert "out is healthy: loss 1." in command("run", recipe, out, "--force")
    said = command("run", recipe, out, "--force", "--health", "full")
    found = json.loads((out / "mergecore_health.json").read_text())
    assert (found["verdict"], found["left_out"]) == ("healthy", {})
    assert [model["name"] for model in found["models"]] == ["out", "talker", "tuned"]
    assert "health check: out and 2 parent(s)\n" in said and f"out is healthy: {found['reason']}\n" in said
    assert f"Healthy: {found['reason']}" in (out / "README.md").read_text()
    locked = json.loads((out / "mergecore.lock.json").read_text())["outputs"]
    assert not {"README.md", "mergecore_health.json"} & locked.keys()
    assert "health" not in command("run", recipe, out, "--force", "--no-health")
    assert not (out / "mergecore_health.json").exists()


def test_a_broken_merge_is_kept_and_called_so_however_quiet(chatty: Path, tmp_path: Path) -> None:
    said = command("run", write_recipe(tmp_path / "r.yml", 30, chatty), tmp_path / "out", "--quiet")
    assert said.startswith("warning: out is broken: loss ") and said.count("\n") == 1
    assert (tmp_path / "out" / "model.safetensors").exists()


def merged(folder: Path, *parents: Path) -> tuple[MergedModel, list[str]]:
    """The input of the post-processor, and the list of its messages."""
    told: list[str] = []
    models = tuple(ModelInfo(str(parent), parent, {}) for parent in parents)
    tensors = {"embed": TensorInfo("F32", (258, 16))}
    model = MergedModel("out", folder, "", "linear", "", models, 0, "LlamaForCausalLM", {}, tensors)
    return replace(model, memory=10**9, tell=told.append, warn=told.append), told


def test_parents_that_cannot_be_measured_are_named_and_none_runs_code(chatty: Path, tmp_path: Path) -> None:
    strange, large, own, bert = (changed(chatty, tmp_path / name, 1.0) for name in ("strange", "large", "own", "bert"))
    (strange / "config.json").write_text('{"model_type": "unheard-of"}')
    os.truncate(large / "model.safetensors", 10**9)
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (own / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": code}))
    (own / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=258, **sizes)).save_pretrained(bert)
    model, _ = merged(chatty, strange, chatty, large, own, bert)
    found = health.check(model, True, 300)
    assert found.verdict.word == "healthy" and [item.name for item in found.figures] == ["out", "talker"]
    missing = found.missing
    assert missing.pop("large").startswith("it does not fit into 1 GB")
    assert missing.pop("strange").startswith("transformers cannot load it: The checkpoint you are trying to load has")
    assert missing == {
        "own": "it needs custom code, which is never run",
        "bert": "it is a BertForMaskedLM, which cannot generate text",
    }
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_looked_at_is_left_out_in_a_sentence(
    talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(model: MergedModel, told: list[str]) -> str:
        told.clear()
        health.Health().after_publish(model)
        assert not (model.folder / "mergecore_health.json").exists()
        return told[-1]

    model, told = merged(talker)
    small = replace(model, memory=10**8)
    assert said(small, told) == "no health check: it needs 0.5 GB of memory, but is limited to 0.1 GB (--memory)"
    (tmp_path / "bare").mkdir()
    assert said(replace(model, folder=tmp_path / "bare"), told) == "no health check: the model has no tokenizer"
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.json").write_text('{"model_type": "unheard-of"}')
    (tmp_path / "strange" / "tokenizer.json").write_text("{}")
    assert "transformers cannot load it: " in said(replace(model, folder=tmp_path / "strange"), told)
    with monkeypatch.context() as patch:
        patch.setattr(health, "find_spec", lambda name: None)
        assert said(model, told).startswith("no health check: transformers is not installed; run: pip install")


def test_a_check_that_ends_early_is_inconclusive(talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, told = merged(talker)
    with monkeypatch.context() as patch:
        patch.setitem(health.SECONDS, "quick", 0.5)  # importing torch takes longer
        both = health.Health()
        both.after_publish(model)
        assert "out is inconclusive: it took longer than 0.5 s" in told
        assert json.loads((talker / "mergecore_health.json").read_text())["verdict"] == "inconclusive"
        both.after_publish(model)  # such as a stage that is kept
        assert told[-1] == "no health check: the checks of other results took the 0.5 s of this run"
    for script, cause in (("kill -9 $$", "was killed by signal 9"), ("exit 3", "exited with status 3")):
        (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "python").chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(tmp_path / "python"))
            told.clear()
            health.Health().after_publish(model)
            assert told[1].startswith("out is inconclusive: its process ") and cause in told[1]


@pytest.mark.parametrize("name", ["run", "moe", "tokensurgeon", "evolve", "sweep", "soup", "cocktail"])
def test_every_command_that_merges_has_the_same_options(name: str) -> None:
    words = [sys.executable, "-m", "mergecore", name, "--help"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert re.search(r"--health\W+quick\|full\W", said) and "--no-health" in said
