"""NaN and infinity are never written silently. The message names the tensor and the model they come from."""

import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import mergecore
from mergecore.errors import RunError
from mergecore.running.nonfinite import is_finite

pytestmark = pytest.mark.filterwarnings("ignore:.*run the same recipe again to resume")

NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
DTYPES = ["float16", "bfloat16", "float32", "float64"]


def change(model, edit):
    """Rewrite a model's weights."""
    tensors = load_file(model / "model.safetensors")
    edit(tensors)
    save_file(tensors, model / "model.safetensors")


def linear(*models, **keys):
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    return {"merge_method": "linear", "models": entries, **keys}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("elements", [1, 33, 2**18])
def test_one_such_element_anywhere_is_seen(dtype, value, elements):
    for index in {0, elements // 2, elements - 1}:
        data = torch.ones(elements, dtype=getattr(torch, dtype))
        data[index] = value
        assert not is_finite(data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_values_pass_however_large_their_sum(dtype):
    largest = torch.finfo(getattr(torch, dtype)).max
    assert is_finite(torch.full((5000,), largest, dtype=getattr(torch, dtype)))
    assert is_finite(torch.tensor([largest, -largest] * 99, dtype=getattr(torch, dtype)))
    assert is_finite(torch.empty(0, dtype=getattr(torch, dtype)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("culprits", [(0,), (1,), (0, 1)])
def test_the_tensor_the_inputs_and_who_had_it_first_are_named(value, culprits, models, tmp_path):
    for number in culprits:
        change(models[number], lambda tensors: tensors[EMBEDDING].__setitem__((7, 2), value))
    names = [str(model) for model in models[:2]]
    holds = (
        " and ".join(names[number] for number in culprits) + f" already contain{'s' if len(culprits) == 1 else ''} some"
    )
    sentence = f"{EMBEDDING}: merging {' and '.join(names)} results in NaN or infinity; {holds}; use --allow-nonfinite"
    with pytest.raises(RunError, match=f"^{re.escape(sentence)}"):
        mergecore.run(linear(*models[:2]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_only_the_rounding_makes_infinite_is_seen(models, tmp_path):
    change(models[0], lambda tensors: tensors[NORM].fill_(2e5))
    with pytest.raises(
        RunError, match=rf"{NORM}: .*; the inputs are finite, but the maximum of float16 is 65504: write dtype"
    ):
        mergecore.run(linear(*models[:2], dtype="float16"), tmp_path / "out")
    assert mergecore.run(linear(*models[:2], dtype="bfloat16"), tmp_path / "other").exists()


def test_what_the_method_makes_is_laid_to_it(models, tmp_path):
    change(models[0], lambda tensors: tensors[NORM].fill_(3e38))
    recipe = {"merge_method": "passthrough", "models": [{"model": str(models[0]), "parameters": {"scale": 2}}]}
    with pytest.raises(
        RunError, match=rf"{NORM}: .*; the inputs are finite, so they come from the method; use --allow"
    ):
        mergecore.run(recipe, tmp_path / "out")


def test_copied_tensors_are_looked_at_too(models, tmp_path):
    bias = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(models[1], lambda tensors: tensors.update({bias: torch.tensor([1.0] * 7 + [math.nan])}))
    recipe = {"merge_method": "slerp", "base_model": str(models[0]), "models": [{"model": str(models[1])}]}
    recipe["parameters"] = {"t": 0.5}
    with pytest.raises(RunError, match=rf"{bias}: .* {models[1]} already contains some"):
        mergecore.run(recipe, tmp_path / "out")


def test_allowed_they_are_written_with_a_warning_and_met_again_by_a_run_that_does_not(models, tmp_path, monkeypatch):
    change(models[0], lambda tensors: tensors[NORM].fill_(math.nan))
    recipe = linear(*models[:2])
    with monkeypatch.context() as patch:
        patch.setattr("mergecore_config.Config.run", lambda *args: 1 / 0)
        with pytest.warns(UserWarning, match="contains NaN"), pytest.raises(RunError, match="ZeroDivisionError"):
            mergecore.run(recipe, tmp_path / "out", allow_nonfinite=True)
    with pytest.raises(RunError, match=f"{NORM}: merging .* results in NaN or infinity"):
        mergecore.run(recipe, tmp_path / "out")
    with pytest.warns(UserWarning, match=f"{NORM}: contains NaN or infinity"):
        out = mergecore.run(recipe, tmp_path / "out", allow_nonfinite=True)
    merged = load_file(out / "model.safetensors")
    assert merged[NORM].isnan().all() and all(t.isfinite().all() for name, t in merged.items() if name != NORM)
