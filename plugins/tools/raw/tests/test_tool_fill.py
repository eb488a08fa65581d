"""Tests for fill: it copies a model's tensors unchanged and all others from the template; rejected input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from mergecore_raw.fill import best_prefix
from refused_commands import Refused, check_refused, run
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model
from zoo import TEXT

VISION = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2,
          "image_size": 8, "patch_size": 4, "projection_dim": 16}  # fmt: skip


def built(kind: type, config: transformers.PretrainedConfig, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    return folder


def filled(model: Path, template: Path, out: Path, monkeypatch, capfd) -> str:
    status, _, err = run(["fill", str(model), str(template), str(out)], monkeypatch, capfd)
    assert status == 0, err
    return err


def check_filled(out: Path, template: Path, expected: dict[str, torch.Tensor]) -> None:
    """Check that the output has these tensors and otherwise the template's, bit for bit."""
    found, whole = load_file(out / "model.safetensors"), load_file(template / "model.safetensors")
    assert found.keys() == whole.keys() and expected.keys() <= whole.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected.get(name, whole[name])) and tensor.dtype == whole[name].dtype, name


def test_a_body_gets_the_head_of_a_template(tmp_path: Path, monkeypatch, capfd) -> None:
    config = transformers.LlamaConfig(**TEXT)
    body = built(transformers.LlamaModel, config, tmp_path / "body", 1)
    whole = built(transformers.LlamaForCausalLM, config, tmp_path / "whole", 2)
    (whole / "tokenizer.json").write_text('{"model": {"vocab": {}}}')
    err = filled(body, whole, tmp_path / "out", monkeypatch, capfd)
    assert "20 tensors are from" in err and "1 are filled in" in err
    own = {f"model.{name}": tensor for name, tensor in load_file(body / "model.safetensors").items()}
    check_filled(tmp_path / "out", whole, own)
    assert (tmp_path / "out/tokenizer.json").exists()
    _, info = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_a_language_model_takes_its_place_in_one_that_sees(tmp_path: Path, monkeypatch, capfd) -> None:
    text = transformers.LlamaConfig(**TEXT)
    sees = transformers.LlavaConfig(vision_config={**VISION, "model_type": "clip_vision_model"},
                                    text_config={**TEXT, "model_type": "llama"}, image_token_index=3)  # fmt: skip
    model = built(transformers.LlamaForCausalLM, text, tmp_path / "model", 1)
    template = built(transformers.LlavaForConditionalGeneration, sees, tmp_path / "template", 2)
    err = filled(model, template, tmp_path / "out", monkeypatch, capfd)
    loaded = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    own, parts = load_file(model / "model.safetensors"), dict(loaded.model.language_model.named_parameters())
    for name, tensor in own.items():
        there = loaded.lm_head.weight if name == "lm_head.weight" else parts[name.removeprefix("model.")]
        assert torch.equal(there, tensor), name
    assert f"{len(own)} tensors are from" in err


def test_files_are_filled_too(tmp_path: Path, monkeypatch, capfd) -> None:
    part, whole = {"b.w": torch.randn(3).half()}, {"a.b.w": torch.zeros(3), "a.c": torch.ones(2), "n": torch.arange(3)}
    torch.save(part, tmp_path / "part.pt")
    save_file(whole, tmp_path / "whole.safetensors")
    filled(tmp_path / "part.pt", tmp_path / "whole.safetensors", tmp_path / "out.safetensors", monkeypatch, capfd)
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found.pop("a.b.w"), part["b.w"])
    assert all(torch.equal(found[name], whole[name]) for name in ("a.c", "n")) and len(found) == 2


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["w", "x"], "m."),
        (["m.w", "m.x"], ""),
        (["only"], "deep.er."),
        (["nothing"], ""),
        ([], ""),
    ],
)
def test_the_beginning_that_fits_most_is_found(names: list[str], prefix: str) -> None:
    assert best_prefix(names, ["m.w", "m.x", "n.w", "deep.er.only"]) == prefix


REFUSED = {
    "nothing": Refused("fill", "Missing argument"),
    "no template": Refused("fill part", "Missing argument"),
    "no output": Refused("fill part whole", "Missing argument"),
    "no such model": Refused("fill prat whole out", "prat: no such folder"),
    "no such template": Refused("fill part whoel out", "whoel: no such folder"),
    "the same twice": Refused("fill whole whole out", "is the template itself"),
    "the same by another path": Refused("fill ./whole whole out", "is the template itself"),
    "an output that is there": Refused("fill part whole there", "already exists"),
    "an output that is the template": Refused("fill part whole whole --force", "is or contains"),
    "an output that is the model": Refused("fill part whole part --force", "is or contains"),
    "a tensor without a place": Refused("fill more whole out", "'extra' not found in whole"),
    "other shapes": Refused("fill wide whole out", "has shape [14, 8], but [12, 8] in whole"),
    "a template that is not whole": Refused("fill whole part out", "not found in part"),
    "a model that was cut": Refused("fill cut whole out", "does not match its shape or the file"),
    "a template that was cut": Refused("fill part cut out", "does not match its shape or the file"),
    "a config that is no JSON": Refused("fill broken whole out", "cannot be parsed as JSON"),
    "a template of no class": Refused("fill part classless out", "config.json must name one model class"),
    "no such file": Refused("fill part.safetensors a.safetensors out.safetensors", "no such file"),
    "a file of another format": Refused("fill part whole.safetensors out.bin", "out.bin: must end in .safetensors"),
    "a file in no folder": Refused("fill part whole.safetensors no/out.safetensors", "does not exist; create it first"),
    "a size that is none": Refused("fill part whole out --shard-size huge", "--shard-size: 'huge' is not a size"),
    "a memory that is none": Refused("fill part whole out --memory 0", "--memory: must be greater than zero"),
    "no such architectures": Refused("fill part whole out --arch-dir no", "no: no such architecture file or folder"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refused")
    for seed, name in enumerate(("whole", "part", "more", "cut", "broken", "classless")):
        write_model(path / name, seed)
    write_model(path / "wide", 7, vocab_size=14)
    shutil.move(path / "wide", path / "wider")
    shutil.copytree(path / "whole", path / "wide")
    wide = load_file(path / "wider/model.safetensors")
    save_file({"model.embed_tokens.weight": wide["model.embed_tokens.weight"]}, path / "wide/model.safetensors")
    tensors = load_file(path / "part/model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, path / "part/model.safetensors")
    save_file({**tensors, "extra": torch.ones(1)}, path / "more/model.safetensors")
    with (path / "cut/model.safetensors").open("r+b") as file:
        file.truncate(3000)
    (path / "broken/config.json").write_text("{")
    (path / "classless/config.json").write_text(json.dumps({"num_hidden_layers": 2}))
    (path / "there").mkdir()
    (path / "there/mine").write_text("mine")
    save_file(tensors, path / "whole.safetensors")
    save_file(tensors, path / "part.safetensors")
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_command_is_refused_in_one_sentence(name: str, folder: Path, monkeypatch, capfd) -> None:
    check_refused(REFUSED[name], folder, monkeypatch, capfd)
