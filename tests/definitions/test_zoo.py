"""Every class with a definition: all tensors are known, copies load and compute the same, and layers can be sliced."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest
import torch
import zoo
from zoo import Tiny

import mergecore
from mergecore.discovery import registry
from mergecore.models.adapters import open_model
from mergecore.models.architecture_lookup import compare_names, find_architecture

MODELS = [
    model
    for module in pkgutil.iter_modules(zoo.__path__)
    for model in importlib.import_module(f"zoo.{module.name}").MODELS
]


Saved = tuple[Tiny, Path, list[torch.Tensor]]
"""A model, its folder, and its outputs."""


@pytest.fixture(scope="module", params=MODELS, ids=str)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder, model = tmp_path_factory.mktemp(str(request.param)) / "model", request.param.build()
    model.save_pretrained(folder)
    return request.param, folder, request.param.outputs(model)


@pytest.fixture(params=["defined", "inferred"])
def known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Test with the architecture packages installed, or with everything inferred from the headers."""
    if request.param == "inferred":
        monkeypatch.setattr(registry, "list_plugins", lambda kind: [] if kind == "architectures" else _listed(kind))
    return bool(request.param == "defined")


_listed = registry.list_plugins


def check_same(tiny: Tiny, out: Path, expected: list[torch.Tensor]) -> None:
    for one, other in zip(expected, tiny.outputs(tiny.load(out)), strict=True):
        assert torch.equal(one, other)


def test_copies_and_merges_with_itself_are_the_model(saved: Saved, known: bool, tmp_path: Path) -> None:
    tiny, folder, expected = saved
    copy = {"merge_method": "passthrough", "models": [{"model": str(folder)}]}
    plan = mergecore.plan(copy)
    assert plan.dropped == 0 and any("inferred" in note for note in plan.notes) is not known
    mergecore.run(copy, tmp_path / "copy")
    check_same(tiny, tmp_path / "copy", expected)
    model = {"model": str(folder), "parameters": {"weight": 0.5}}
    mergecore.run({"merge_method": "linear", "models": [model, model]}, tmp_path / "linear")
    check_same(tiny, tmp_path / "linear", expected)


def test_each_definition_fits_its_model_as_arch_check_sees_it(saved: Saved) -> None:
    _, folder, _ = saved
    plugins = registry.Registry(print)
    checkpoint = open_model(str(folder), plugins)
    definition, notes = find_architecture(checkpoint, plugins, {})
    findings = compare_names(definition, checkpoint)
    checkpoint.close()
    assert (findings.unknown, findings.missing, notes) == ([], [], [])


def test_no_class_is_described_twice() -> None:
    classes = [plugin.name for plugin in _listed("architectures")]
    assert len(classes) == len(set(classes)) > 200


@pytest.mark.parametrize("known", ["defined"], indirect=True)
def test_sliced_models_load_and_run(saved: Saved, known: bool, tmp_path: Path) -> None:
    tiny, folder, _ = saved
    modules = {}
    for name in mergecore.plan(
        {"merge_method": "passthrough", "models": [{"model": str(folder)}]}
    ).architecture.modules:
        ranges = tiny.slices.get(name)
        slices = [{"sources": [{"model": str(folder), "layer_range": list(span)}]} for span in ranges or ()]
        modules[name] = {"slices": slices} if slices else {"models": [{"model": str(folder)}]}
    mergecore.run({"merge_method": "passthrough", "modules": modules}, tmp_path / "sliced")
    assert all(torch.isfinite(value).all() for value in tiny.outputs(tiny.load(tmp_path / "sliced")))
