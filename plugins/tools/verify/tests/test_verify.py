"""Tests for verify: it accepts complete models, reports damage, and recomputes tensors bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from mergecore_verify import Finding, examine
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from typer.testing import CliRunner

import mergecore
from mergecore.errors import InputError

CHECKS = ("files", "names", "shapes", "values", "hashes", "tokenizer", "loading", "sample")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merge of models with a tokenizer."""
    folder = tmp_path_factory.mktemp("made")
    models = [write_model(folder / name, seed) for seed, name in enumerate(("base", "code", "prose"))]
    tokenizer = Tokenizer(WordLevel({f"w{number}": number for number in range(12)}, unk_token="w0"))
    for model in models:
        tokenizer.save(str(model / "tokenizer.json"))
    entries = [{"model": str(model), "parameters": {"density": 0.5}} for model in models[1:]]
    return mergecore.run({"merge_method": "dare_ties", "base_model": str(models[0]), "models": entries}, folder / "out")


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy that a test can damage."""
    for folder in made.parent.iterdir():
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / "out"


def found(folder: Path, sample: int = 0) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(folder, sample)}


def failed(folder: Path, sample: int = 0) -> set[str]:
    return {name for name, finding in found(folder, sample).items() if finding.passed is False}


def test_a_result_passes_every_check(made: Path) -> None:
    findings = found(made, sample=99)
    assert tuple(findings) == CHECKS
    assert all(finding.passed for finding in findings.values()), findings
    assert findings["sample"].text.startswith("21 tensors")


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def flip(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"].view(torch.int32)[5, 3] ^= 1


NORM = "model.norm.weight"
SPOILT = {
    "truncated": (lambda out: (out / "model.safetensors").write_bytes(b"1234"), {"files", "hashes"}, "truncated"),
    "lost tensor": (lambda out: edit_weights(out, lambda t: t.pop(NORM)), {"names", "hashes", "loading"}, NORM),
    "unknown tensor": (
        lambda out: edit_weights(out, lambda t: t.update(x=torch.ones(2))), {"names", "hashes", "loading"}, "x unknown"
    ),
    "other rows": (
        lambda out: edit_json(out / "config.json", vocab_size=11),
        {"shapes", "hashes", "loading", "tokenizer"}, "vocab_size in config.json is 11"
    ),
    "other shape": (
        lambda out: edit_weights(out, lambda t: t.update({NORM: torch.ones(9)})),
        {"hashes", "loading"}, "of a different shape"
    ),
    "NaN": (lambda out: edit_weights(out, lambda t: t[NORM].fill_(torch.nan)), {"values", "hashes"}, NORM),
    "one bit": (lambda out: edit_weights(out, flip), {"hashes"}, "model.safetensors changed"),
    "lost file": (lambda out: (out / "tokenizer.json").unlink(), {"hashes"}, "tokenizer.json missing"),
    "late token": (
        lambda out: Tokenizer(WordLevel({"a": 0, "late": 12}, unk_token="a")).save(str(out / "tokenizer.json")),
        {"hashes", "tokenizer"}, "'late' (12)"
    ),
    "late special": (
        lambda out: edit_json(out / "config.json", eos_token_id=[3, 40]), {"hashes", "tokenizer"}, "eos_token_id 40"
    ),
    "broken lock": (lambda out: (out / "mergecore.lock.json").write_text("{"), {"lock"}, "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILT)
def test_what_is_wrong_is_named_by_its_check(out: Path, kind: str) -> None:
    spoil, expected, said = SPOILT[kind]
    spoil(out)
    findings = found(out)
    assert {name for name, finding in findings.items() if finding.passed is False} == expected
    assert any(said in finding.text for finding in findings.values() if finding.passed is False), findings


def test_a_sample_computes_the_parents_again(out: Path) -> None:
    edit_weights(out, flip)
    assert failed(out, sample=21) == {"hashes", "sample"}
    (out / "mergecore.lock.json").unlink()
    with pytest.raises(InputError, match="has no lock file"):
        found(out, sample=1)


def test_a_folder_of_any_origin_can_be_checked(out: Path) -> None:
    findings = found(out.parent / "base")
    assert findings["hashes"] == Finding("hashes", None, "not checked: no lock file")
    assert not failed(out.parent / "base")


def test_code_of_the_folder_is_never_run(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "modeling_x.py").write_text("raise SystemExit('ran')", "utf-8")
    auto = {"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.Y"}
    edit_json(out / "config.json", auto_map=auto, model_type="x", architectures=["XForCausalLM"])
    assert "has no class XForCausalLM" in found(out)["loading"].text
    edit_json(out / "config.json", model_type="x", architectures=["LlamaForCausalLM"])
    assert found(out)["loading"].passed is False
    monkeypatch.setattr("mergecore_verify.asking.NEEDED", ("no-such-package",))
    assert "no-such-package is not installed" in found(out)["loading"].text


def test_the_command_prints_a_line_a_check_and_its_status_says_whose_turn_it_is(out: Path) -> None:
    from mergecore_verify.command import verify

    app = typer.Typer()
    app.command()(verify)
    run = CliRunner().invoke
    result = run(app, [str(out)])
    assert result.exit_code == 0 and [line[:17].split() for line in result.stdout.splitlines()] == [
        ["ok", name] for name in CHECKS[:-1]
    ]
    edit_json(out / "config.json", vocab_size=11)
    result = run(app, [str(out), "--json"])
    assert (
        result.exit_code == 1
        and {item["check"]: item["passed"] for item in json.loads(result.stdout)}["shapes"] is False
    )
    with pytest.raises(InputError, match="there is no such folder"):
        run(app, [str(out / "nowhere")], catch_exceptions=False)
