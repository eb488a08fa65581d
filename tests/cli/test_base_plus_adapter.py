"""Every command that takes a model takes BASE+ADAPTER, and does the same as with the model that PEFT merged."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from peft_bases import shake
from refused_commands import run
from safetensors.torch import load_file, save_file
from talkers import write_talker
from transformers import AutoModelForCausalLM, AutoTokenizer

Run = Callable[..., str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, adapters for it, the model that PEFT merged from the first, another model, and a text."""
    folder = tmp_path_factory.mktemp("folders")
    for seed, name in enumerate(("base", "other")):
        write_talker(folder / name, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed, name in enumerate(("adapter", "second")):
            base = AutoModelForCausalLM.from_pretrained(folder / "base")
            config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
            model = peft.get_peft_model(base, config)
            model.peft_config["default"].base_model_name_or_path = str(folder / "base")
            shake(model, seed + 1)
            model.save_pretrained(folder / name)
            if name == "adapter":
                model.merge_and_unload().save_pretrained(folder / "merged")
                AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "merged")
    (folder / "text.txt").write_text("To be, or not to be, that is the question. " * 5)
    (folder / "loss.yml").write_text("evaluate: [{evaluator: loss, parameters: {files: [text.txt]}}]")
    return folder


@pytest.fixture
def ours(folders: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in the folder of the models, and return its standard output."""
    monkeypatch.chdir(folders)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def command(*words: object) -> str:
        status, out, err = run([str(word) for word in words], monkeypatch, capfd)
        assert status == 0, err
        return out

    return command


def close(one: Path, two: Path) -> None:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("template", ["other", "base"])
def test_fill(template: str, ours: Run, tmp_path: Path) -> None:
    for name, model in (("a", "base+adapter"), ("b", "merged")):
        ours("fill", model, template, tmp_path / name, "-q")
    close(tmp_path / "a", tmp_path / "b")


def test_init(ours: Run) -> None:
    models = ("base+adapter", "merged")
    recipes = [yaml.safe_load(ours("init", "base", model, "base+second", "--yes")) for model in models]
    assert {item["model"] for item in recipes[0]["models"]} == {"base+adapter", "base+second"}
    for recipe in recipes:
        recipe["models"] = [{**item, "model": ""} for item in recipe["models"]]
    assert recipes[0] == recipes[1]


def test_diff(ours: Run) -> None:
    one, two = (json.loads(ours("diff", "base", model, "--json")) for model in ("base+adapter", "merged"))

    def numbers(value: Any) -> list[float]:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [value] if type(value) is float else [number for part in parts for number in numbers(part)]

    assert numbers(one) == pytest.approx(numbers(two), rel=1e-3, abs=1e-5) and any(numbers(one))


def test_eval(ours: Run) -> None:
    scores = [json.loads(ours("eval", model, "--with", "loss.yml", "--json", "-q"))[0] for model in
              ("base+adapter", "merged", "base")]  # fmt: skip
    values = [[score["value"] for score in found["scores"]["loss"]] for found in scores]
    assert scores[0]["model"] == "base+adapter"
    assert values[0] == pytest.approx(values[1], rel=1e-5) and values[0] != pytest.approx(values[2], rel=1e-3)


def test_moe(ours: Run, tmp_path: Path) -> None:
    for name, model in (("a", "base+adapter"), ("b", "merged")):
        experts = [{"source_model": source, "positive_prompts": [prompt]}
                   for source, prompt in ((model, "a"), ("other", "b"))]  # fmt: skip
        config = {"base_model": "base", "gate_mode": "hidden", "dtype": "float32", "experts": experts}
        (tmp_path / f"{name}.yml").write_text(json.dumps(config))
        ours("moe", tmp_path / f"{name}.yml", tmp_path / name, "-q", "--no-health")
    close(tmp_path / "a", tmp_path / "b")


def test_tokensurgeon(ours: Run, tmp_path: Path) -> None:
    for name, model in (("a", "base+adapter"), ("b", "merged")):
        ours("tokensurgeon", model, "other", tmp_path / name, "-q", "--no-health")
    close(tmp_path / "a", tmp_path / "b")


def test_results_of_lora_pass_verify_and_push(ours: Run, tmp_path: Path) -> None:
    ours("lora", "extract", "merged", "base", tmp_path / "extracted", "-q", "--rank", 4)
    ours("lora", "merge", "adapter", "second", tmp_path / "merged", "-q")
    for name in ("extracted", "merged"):
        found = {item["check"]: item for item in json.loads(ours("verify", tmp_path / name, "--json"))}
        assert all(item["passed"] for item in found.values()) and {"files", "values", "base"} <= found.keys()
        assert "fits 4 tensors" in found["base"]["text"]
        ours("push", tmp_path / name, "me/adapter", "--dry-run")
        assert "ok   base" in ours("verify", f"base+{tmp_path / name}")


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def changed(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({key: change(value) if "lora_A" in key else value for key, value in load_file(path).items()}, path)


WRONG: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (cut, "files", "adapter_model.safetensors"),
    "not finite": (lambda folder: changed(folder, lambda value: value * float("nan")), "values", "NaN or infinity"),
    "of another size": (lambda folder: changed(folder, lambda value: value[:, :7].clone()), "base", "does not fit"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "files", "has no adapter_model"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_damaged_adapter_fails_verify_and_push(
    what: str, ours: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, check, words = WRONG[what]
    ours("lora", "extract", "merged", "base", tmp_path / "adapter", "-q", "--rank", 4)
    spoil(tmp_path / "adapter")
    status, out, err = run(["verify", str(tmp_path / "adapter"), "--json"], monkeypatch, capfd)
    failed = {item["check"]: item["text"] for item in json.loads(out) if item["passed"] is False}
    assert status == 1 and words in failed[check], (failed, err)
    if check == "files":
        status, _, err = run(["push", str(tmp_path / "adapter"), "me/adapter", "--dry-run"], monkeypatch, capfd)
        assert status == 2 and words in err
