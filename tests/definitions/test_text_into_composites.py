"""A language model merges into the text part of any class that contains one, described or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shrunk_models import classes_with_text, write_with_text

import mergecore
from mergecore.errors import MergecoreError

TOKENS = torch.tensor([[5, 6, 7, 8, 9]])

SAMPLE = (
    "DeepseekVLForConditionalGeneration", "Exaone4_5_ForConditionalGeneration", "GotOcr2ForConditionalGeneration",
    "Idefics2ForConditionalGeneration", "InternVLForConditionalGeneration", "LlavaOnevisionForConditionalGeneration",
    "OmniASRForConditionalGeneration", "Ovis2ForConditionalGeneration", "Qwen2AudioForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration", "SmolVLMForConditionalGeneration", "VoxtralForConditionalGeneration",
)  # fmt: skip
"""Classes without a definition, with one to three other parts, tied and untied."""

OTHER_LAYOUT = {"MiniMaxM3SparseForConditionalGeneration"}
"""Classes whose text part is stored in another layout than the language model."""

OTHER_LOGITS = {"AyaVisionForConditionalGeneration", "Cohere2VisionForConditionalGeneration"}
"""Classes that do not scale the logits as the language model does, although they have its weights."""


def written(name: str, folder: Path) -> tuple[Any, Any]:
    """A model of a class and a language model with the config of its text part, both with random weights."""
    return write_with_text(name, folder / "base", folder / "text")


def replaced(folder: Path) -> Path:
    """Replace the whole text part of the base."""
    models = [{"model": str(folder / "text"), "parameters": {"weight": 1}}]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(folder / "base"), "models": models}
    return mergecore.run(recipe, folder / "out")


def difference(model_class: Any, out: Path, text: Any) -> float:
    """Load the merge strictly. Return the largest difference between its logits for text and the language model's."""
    model, info = model_class.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        logits = [each(input_ids=TOKENS, use_cache=False).logits for each in (model.eval(), text)]
    return (logits[0] - logits[1]).abs().max().item()


@pytest.mark.parametrize("name", SAMPLE)
def test_the_text_part_becomes_the_language_model(name: str, tmp_path: Path) -> None:
    model_class, text = written(name, tmp_path)
    assert difference(model_class, replaced(tmp_path), text) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(classes_with_text()))
def test_every_class_that_can_be_built(name: str, tmp_path: Path) -> None:
    try:
        model_class, text = written(name, tmp_path)
    except Exception as error:
        pytest.skip(f"cannot be built this small: {type(error).__name__}: {error}"[:100])
    if name in OTHER_LAYOUT:
        with pytest.raises(MergecoreError, match="their weights do not match"):
            replaced(tmp_path)
        return
    out = replaced(tmp_path)
    try:
        found = difference(model_class, out, text)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        pytest.skip(f"cannot run on text alone: {type(error).__name__}: {error}"[:100])
    assert found < 1e-5 or name in OTHER_LOGITS


def test_two_places_that_fit_are_refused(tmp_path: Path) -> None:
    """Nobody can know whether the text belongs into the first or the second of two alike parts."""
    from safetensors.torch import load_file, save_file

    written("InternVLForConditionalGeneration", tmp_path)
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    twins = {f"second.{name}": t.clone() for name, t in tensors.items() if name.startswith("language_model.")}
    save_file({**tensors, **twins}, file, {"format": "pt"})
    with pytest.raises(MergecoreError, match="their weights do not match"):
        replaced(tmp_path)
