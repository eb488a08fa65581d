"""Checkpoints that do not match their definition are rejected. Alternative names and layouts are supported."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_models import MIXTURE, define, mixture, write
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import mergecore
from mergecore.cli.app import app
from mergecore.definitions.inference import infer_definition
from mergecore.definitions.parsing import parse_definition
from mergecore.discovery import registry
from mergecore.errors import ArchitectureError, MergecoreError, ModelError, RecipeError

ROOT = Path(__file__).resolve().parents[2]
LLAMA = json.loads((ROOT / "architectures/llama/mergecore_arch_llama/llama.json").read_text("utf-8"))


def copies(*models: Path, **rest: Any) -> dict[str, Any]:
    entries = [{"model": str(model), "parameters": {"weight": 1.0}} for model in models]
    return {"merge_method": "linear", "models": entries, **rest}


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate that no architecture is installed."""
    listed = registry.list_plugins
    monkeypatch.setattr(registry, "list_plugins", lambda kind: [] if kind == "architectures" else listed(kind))


def test_a_tensor_that_no_definition_knows_is_refused(models: list[Path]) -> None:
    change(models[1], lambda tensors: tensors.update({"model.layers.0.self_attn.sinks": torch.ones(2)}))
    with pytest.raises(ArchitectureError, match=r"contains 'model\.layers\.0\.self_attn\.sinks', unknown to Llama"):
        mergecore.plan(copies(*models))


def test_a_model_of_another_class_is_called_so(models: list[Path], tmp_path: Path) -> None:
    other = write(tmp_path / "other", {"model.layers.0.experts": torch.ones(2)})
    with pytest.raises(ArchitectureError, match=r"is of class OwnModel, but .*base is of class LlamaForCausalLM, and"):
        mergecore.plan(copies(models[0], other))


def test_a_missing_tensor_is_refused(models: list[Path]) -> None:
    change(models[1], lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"code: has no tensor 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        mergecore.plan(copies(*models))


def test_a_definition_without_v_proj_is_refused(models: list[Path], tmp_path: Path) -> None:
    definition = copy.deepcopy(LLAMA)
    definition["layer"] = [w for w in definition["layer"] if "v_proj" not in str(w)]
    path = tmp_path / "thin.json"
    path.write_text(json.dumps({**definition, "classes": ["LlamaForCausalLM"]}))
    with pytest.raises(ArchitectureError, match=r"contains 'model\.layers\.0\.self_attn\.v_proj\.weight' and \d more"):
        mergecore.plan(copies(*models, architectures=[str(path)]))
    checked = CliRunner().invoke(app, ["arch", "check", str(path), "--against", str(models[0])])
    assert isinstance(checked.exception, ArchitectureError) and "v_proj" in checked.output


@pytest.mark.parametrize(("method", "name"), [("linear", "model.norm"), ("ties", "model.layers.0.mlp.up_proj")])
def test_models_of_other_sizes_are_refused(method: str, name: str, models: list[Path]) -> None:
    change(models[1], lambda tensors: tensors.update({f"{name}.weight": tensors[f"{name}.weight"][1:].clone()}))
    recipe = copies(*models, merge_method=method, base_model=str(models[0]))
    with pytest.raises(ModelError, match="have different shapes"):
        mergecore.plan(recipe)


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([[0, 9]], "has 2 layers, so the range can end at 2"),
        ([[2, 1]], "the end must be greater than the start"),
        ([[1, 1]], "the end must be greater than the start"),
        ([[0, 1], [0, 2]], "the same number of layers"),
    ],
)
def test_layer_ranges_that_cannot_be_are_refused(ranges: list[list[int]], words: str, models: list[Path]) -> None:
    sources = [
        {"model": str(model), "layer_range": span, "parameters": {"weight": 1}} for model, span in zip(models, ranges)
    ]
    with pytest.raises(MergecoreError, match=words):
        mergecore.plan({"merge_method": "linear", "slices": [{"sources": sources}]})


@pytest.mark.parametrize("base_is_fused", [True, False])
def test_layouts_of_two_generations_merge_in_the_bases(base_is_fused: bool, tmp_path: Path) -> None:
    base = write(tmp_path / "base", mixture(1, base_is_fused))
    other = write(tmp_path / "other", mixture(2, not base_is_fused))
    recipe = copies(base, other, base_model=str(base), architectures=[define(tmp_path, **MIXTURE)])
    plan = mergecore.plan(recipe)
    assert plan.dropped == 0 and any("converted to the layout of" in note for note in plan.notes)
    mergecore.run(recipe, tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    one, two = mixture(1, base_is_fused), mixture(2, base_is_fused)
    assert merged.keys() == one.keys()
    for name, tensor in merged.items():
        mean = (one[name].double() + two[name].double()) / 2
        np.testing.assert_allclose(tensor, mean, rtol=1e-6, atol=1e-7)


def test_a_whole_that_is_not_as_large_as_its_parts_is_refused(tmp_path: Path) -> None:
    fused = mixture(2, True)
    fused["layers.1.qk.weight"] = torch.ones(7, 4)
    models = write(tmp_path / "base", mixture(1, False)), write(tmp_path / "other", fused)
    with pytest.raises(
        ModelError, match=r"'layers\.1\.qk\.weight' \[7, 4\] cannot be split into parts like 'layers\.1\.q\.weight'"
    ):
        mergecore.plan(copies(*models, architectures=[define(tmp_path, **MIXTURE)]))


def test_a_model_saved_under_another_prefix_merges(tmp_path: Path) -> None:
    plain = mixture(1, True)
    models = write(tmp_path / "base", plain), write(tmp_path / "other", {f"model.{k}": v for k, v in plain.items()})
    recipe = copies(*models, architectures=[define(tmp_path, **MIXTURE, prefixes={"model.": ""})])
    assert any("'model.' is replaced by ''" in note for note in mergecore.plan(recipe).notes)
    mergecore.run(recipe, tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    assert merged.keys() == plain.keys() and all(torch.equal(merged[name], plain[name]) for name in plain)


def test_optional_weights_of_a_group_come_together(tmp_path: Path) -> None:
    layer = ["a", {"name": "b.weight", "optional": "b"}, {"name": "b.bias", "optional": "b"}]
    stack = {"count": "num_hidden_layers", "prefix": "h.{layer}."}
    path = define(tmp_path, layers=stack, layer=layer)
    ones = {"h.0.a": torch.ones(2), "h.1.a": torch.ones(2)}
    whole = write(tmp_path / "whole", {**ones, "h.1.b.weight": torch.ones(2), "h.1.b.bias": torch.ones(2)})
    assert mergecore.plan(copies(whole, architectures=[path])).dropped == 0
    half = write(tmp_path / "half", {**ones, "h.1.b.weight": torch.ones(2)})
    with pytest.raises(ModelError, match=r"has tensor 'h\.1\.b\.weight' but not 'h\.1\.b\.bias'"):
        mergecore.plan(copies(half, architectures=[path]))


def kinds(folder: Path, config: dict[str, Any], **definition: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that plans slices of a four-layer model and returns the resulting config."""
    tensors = {f"h.{layer}.a": torch.ones(2) for layer in range(4)}
    model = write(folder / "model", tensors, **{**config, "num_hidden_layers": 4})
    stack = {"count": "num_hidden_layers", "prefix": "h.{layer}."}
    path = define(folder, layers=stack, layer=["a"], **definition)

    def plan(*spans: tuple[int, int]) -> dict[str, Any]:
        slices = [{"sources": [{"model": str(model), "layer_range": list(span)}]} for span in spans]
        recipe = {"merge_method": "passthrough", "slices": slices, "architectures": [path]}
        return dict(mergecore.plan(recipe).config)

    return plan


def test_what_the_config_says_of_layers_is_cut_with_them(tmp_path: Path) -> None:
    config = {
        "types": ["w", "x", "y", "z"], "dense": [0, 2], "first_dense": 1, "runs": [[["g", "l"], 2]], "none": None,
    }  # fmt: skip
    plan = kinds(
        tmp_path, config, per_layer_config=["types", "runs", "none"], layer_numbers=["dense"],
        leading_layers=["first_dense"],
    )  # fmt: skip
    made = plan((0, 1), (2, 4), (2, 3))
    assert made["num_hidden_layers"] == 4
    assert made["types"] == ["w", "y", "z", "y"]
    assert made["dense"] == [0, 1, 3]
    assert made["first_dense"] == 1
    assert made["runs"] == [[["g", "g", "l", "g"], 1]]
    with pytest.raises(
        ModelError, match=r"would come before one of the leading layers that 'first_dense' in config.json counts"
    ):
        plan((1, 2), (0, 1))


def test_layers_must_keep_their_place_in_a_period(tmp_path: Path) -> None:
    plan = kinds(tmp_path, {"step": 2}, layer_periods=["step"])
    assert plan((0, 2), (0, 4))["num_hidden_layers"] == 6
    with pytest.raises(ModelError, match=r"layer 0 would become layer 1, .* because of 'step' = 2 in config.json"):
        plan((0, 1), (0, 4))


def test_a_period_may_have_a_default_and_give_way_to_a_list(tmp_path: Path) -> None:
    period = {"key": "step", "default": 2, "unless": ["types"]}
    (tmp_path / "default").mkdir()
    plan = kinds(tmp_path / "default", {"types": []}, layer_periods=[period])
    with pytest.raises(ModelError, match=r"layer 0 would become layer 1, .* because of 'step' = 2 in config.json"):
        plan((0, 1), (0, 4))
    (tmp_path / "list").mkdir()
    plan = kinds(
        tmp_path / "list", {"step": 3, "types": list("wxyz")}, layer_periods=[period], per_layer_config=["types"]
    )
    assert plan((0, 1), (0, 4))["types"] == list("wwxyz")


def test_a_layer_that_lacks_a_weight_as_one_of_the_first_stays_there(tmp_path: Path) -> None:
    stack = {"count": "num_hidden_layers", "prefix": "h.{layer}."}
    path = define(tmp_path, layers=stack, layer=["a", {"name": "norm", "from_layer": 1}])
    ones = {f"h.{layer}.a": torch.ones(2) for layer in range(3)}
    model = write(
        tmp_path / "model", {**ones, "h.1.norm": torch.ones(2), "h.2.norm": torch.ones(2)}, num_hidden_layers=3
    )

    def plan(*spans: tuple[int, int]) -> list[str]:
        slices = [{"sources": [{"model": str(model), "layer_range": list(span)}]} for span in spans]
        recipe = {"merge_method": "passthrough", "slices": slices, "architectures": [path]}
        return list(mergecore.plan(recipe).tensors)

    assert plan((0, 2), (1, 2))[-2:] == ["h.2.a", "h.2.norm"]
    for spans in [((0, 1), (0, 2)), ((1, 2),)]:
        with pytest.raises(ModelError, match=r"but only the first 1 have no 'norm'"):
            plan(*spans)
    lacking = write(tmp_path / "lacking", {**ones, "h.1.norm": torch.ones(2)}, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"has no tensor 'h\.2\.norm'"):
        mergecore.plan(copies(lacking, architectures=[path]))


@pytest.mark.parametrize(("name", "period"), [("gemma/gemma2", 2), ("gemma/gemma3_text", 6), ("cohere/cohere2", 4)])
def test_windows_that_a_config_leaves_to_the_class_have_its_period(name: str, period: int, tmp_path: Path) -> None:
    family, file = name.split("/")
    path = ROOT / f"architectures/{family}/mergecore_arch_{family}/{file}.json"
    module = parse_definition("Any", json.loads(path.read_text("utf-8")), str(path)).modules["default"]
    assert [item.of({}) for item in module.layer_periods] == [period]
    assert [item.of({"layer_types": ["full_attention"]}) for item in module.layer_periods] == [1]


@pytest.mark.usefixtures("uninstalled")
def test_inferred_layers_of_different_kinds_are_not_shuffled(tmp_path: Path) -> None:
    tensors = {"h.0.a": torch.ones(2), "h.1.a": torch.ones(2), "h.1.b": torch.ones(2)}
    model = str(write(tmp_path / "model", tensors))
    pieces = [{"sources": [{"model": model, "layer_range": [k, k + 1]}]} for k in (1, 0)]
    with pytest.raises(ModelError, match=r"does not know which config.json key"):
        mergecore.plan({"merge_method": "passthrough", "slices": pieces})


@pytest.mark.usefixtures("uninstalled")
def test_layers_that_cannot_be_told_apart_are_merged_but_not_sliced(tmp_path: Path) -> None:
    model = write(tmp_path / "model", {"h.0.a": torch.ones(2), "h.1.a": torch.ones(2)}, num_hidden_layers=7)
    assert any("no separate layers" in note for note in mergecore.plan(copies(model)).notes)
    source = {"model": str(model), "layer_range": [0, 1]}
    with pytest.raises(MergecoreError, match="no layers to select"):
        mergecore.plan({"merge_method": "passthrough", "slices": [{"sources": [source]}]})


def test_what_is_inferred_is_a_definition_that_fits(models: list[Path], tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["arch", "infer", str(models[0])]).output
    path = tmp_path / "llama.json"
    path.write_text(printed)
    checked = CliRunner().invoke(app, ["arch", "check", str(path), "--against", str(models[1])])
    assert checked.exit_code == 0 and "all 21 tensors are known" in checked.output
    assert json.loads(printed)["layers"] == {"count": "num_hidden_layers", "prefix": "model.layers.{layer}."}


def test_a_folder_of_definitions_comes_before_the_installed_ones(
    models: list[Path], linear_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "llama.json").write_text(json.dumps({**LLAMA, "classes": ["LlamaForCausalLM"], "after": []}))
    refused = CliRunner().invoke(app, ["plan", str(linear_recipe), "--arch-dir", str(folder)])
    assert "'lm_head.weight'" in str(refused.exception)
    monkeypatch.setenv("MERGECORE_ARCH_PATH", str(folder))
    refused = CliRunner().invoke(app, ["plan", str(linear_recipe)])
    assert "'lm_head.weight'" in str(refused.exception)


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ({"before": ["a", "a"]}, "'a' is listed twice"),
        ({"layer": ["a"]}, "'layers' .* and 'layer' .* must be used together"),
        (
            {"modules": {"text": {"before": ["a"]}}, "before": ["b"]},
            "cannot be used together with weights at the top level",
        ),
        ({"befor": ["a"]}, "unknown key 'befor'"),
        ([], "must be a mapping"),
    ],
)
def test_a_wrong_definition_is_refused_by_its_place(definition: Any, words: str) -> None:
    with pytest.raises(ArchitectureError, match=words):
        parse_definition("Own", definition, "own.json")


def test_a_count_that_the_config_lacks_is_asked_for(tmp_path: Path) -> None:
    model = write(tmp_path / "model", mixture(1, False), num_experts=None)
    with pytest.raises(ArchitectureError, match=r"must have the number of 'experts.gate_up' as num_experts"):
        mergecore.plan(copies(model, architectures=[define(tmp_path, **MIXTURE)]))


def test_experts_are_inferred_as_one_entry_each(tmp_path: Path) -> None:
    tensors = {f"layers.{i}.experts.{e}.w": torch.ones(2) for i in range(2) for e in range(3)}
    infos = {name: mergecore.api.TensorInfo("F32", tuple(t.shape)) for name, t in tensors.items()}
    layer = infer_definition({"num_hidden_layers": 2, "n_routed_experts": 3}, infos)["layer"]
    assert layer == [{"name": "experts.{expert}.w", "each": {"expert": "n_routed_experts"}}]


def test_a_definition_that_is_a_pipe_is_refused_and_not_waited_for(models: list[Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(RecipeError, match=r"pipe\.json: is a folder, pipe, or device instead of a file"):
        mergecore.plan(copies(models[0], architectures=[str(tmp_path / "pipe.json")]))


def test_a_new_package_can_begin_with_a_models_weights(models: list[Path], tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["new", "arch", "ours", "--into", str(tmp_path), "--from", str(models[0])])
    assert made.exit_code == 0, made.output
    project = (tmp_path / "ours/pyproject.toml").read_text("utf-8")
    assert 'LlamaForCausalLM = "mergecore_arch_ours:ours.json"' in project
    definition = json.loads((tmp_path / "ours/mergecore_arch_ours/ours.json").read_text("utf-8"))
    names = {
        weight.name
        for weight in parse_definition("LlamaForCausalLM", definition, "ours").weights({"num_hidden_layers": 2}, "")
    }
    assert names == set(load_file(models[0] / "model.safetensors"))
