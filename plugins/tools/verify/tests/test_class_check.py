"""While planning, the class in transformers refuses a result that it could not load, and nothing else is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mergecore_verify import asking

import mergecore
from mergecore.errors import InputError
from mergecore.models import Checkpoint

TEXT = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 4, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
QWEN3_NEXT = {
    **TEXT, "num_hidden_layers": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let the hook run, with its own saved answers."""
    monkeypatch.setenv("MERGECORE_DISABLE", "health")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama, and a Qwen3-Next as it was published: the kinds of its layers follow from an interval."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    llama = transformers.LlamaConfig(**TEXT, num_hidden_layers=2)
    transformers.LlamaForCausalLM(llama).save_pretrained(root / "llama")
    transformers.Qwen3NextForCausalLM(transformers.Qwen3NextConfig(**QWEN3_NEXT)).save_pretrained(root / "next")
    three = transformers.Qwen3NextConfig(**{**QWEN3_NEXT, "num_hidden_layers": 3}, full_attention_interval=2)
    transformers.Qwen3NextForCausalLM(three).save_pretrained(root / "three")
    for name, interval in (("next", 4), ("three", 2)):
        config = json.loads((root / name / "config.json").read_text())
        config.pop("layer_types", None)
        (root / name / "config.json").write_text(json.dumps({**config, "full_attention_interval": interval}))
    return root


def slices(model: Path, *spans: tuple[int, int]) -> dict[str, Any]:
    listed = [{"sources": [{"model": str(model), "layer_range": list(span)}]} for span in spans]
    return {"merge_method": "passthrough", "slices": listed}


def test_a_result_that_would_not_load_is_refused_before_a_weight_is_read(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "read", lambda *args: pytest.fail("a weight was read"))
    words = r"would not load as Qwen3NextForCausalLM of transformers .*: model\.layers\.3\.self_attn\..* would be miss"
    with pytest.raises(InputError, match=words):
        mergecore.plan(slices(models / "three", (0, 3), (0, 1)))  # the interval wants attention there
    mergecore.plan(slices(models / "next", (0, 4), (0, 4))).close()


def test_a_class_and_shape_is_paid_for_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mergecore.plan(slices(models / "llama", (0, 2), (0, 2))).close()
    monkeypatch.setattr(asking, "run_bounded", lambda *args, **options: pytest.fail("asked again"))
    mergecore.plan(slices(models / "llama", (0, 2), (0, 2))).close()
    mergecore.plan({"merge_method": "passthrough", "models": [{"model": str(models / "llama")}]}).close()


def test_what_the_source_lacks_is_not_held_against_the_result(models: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(models / "next", tmp_path / "part")
    tensors = load_file(tmp_path / "part" / "model.safetensors")
    for name in [name for name in tensors if "shared_expert_gate" in name]:
        del tensors[name]
    save_file(tensors, tmp_path / "part" / "model.safetensors", {"format": "pt"})
    mergecore.plan(slices(tmp_path / "part", (0, 4), (0, 4))).close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["NoSuchForCausalLM"]}, "has no class NoSuchForCausalLM"),
        ({"model_type": "no_such"}, "cannot load it"),
    ],
)
def test_a_class_that_cannot_be_asked_is_a_note(
    models: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    shutil.copytree(models / "llama", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, **change}))
    plan = mergecore.plan(slices(tmp_path / "other", (0, 2), (0, 2)))
    plan.close()
    assert any(words in note and "is not checked against its class" in note for note in plan.notes), plan.notes


def test_without_transformers_a_note_says_so(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "NEEDED", ("no-such-package",))
    plan = mergecore.plan(slices(models / "llama", (0, 2), (0, 2)))
    plan.close()
    assert any("no-such-package is not installed: pip install mergecore-verify[load]" in note for note in plan.notes)


def test_without_a_cache_folder_the_class_is_asked_all_the_same(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    mergecore.plan(slices(models / "llama", (0, 2), (0, 2))).close()
