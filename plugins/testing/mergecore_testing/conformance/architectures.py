"""Checks for architectures: a model built from the definition is fully recognized, merged, and sliced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergecore.definitions.parsing import parse_definition
from mergecore.models.adapters import open_model
from mergecore.models.architecture_lookup import compare_names
from mergecore_testing.checkpoints import write_checkpoint
from mergecore_testing.conformance.compare import expect
from mergecore_testing.conformance.subjects import Subject, folder
from mergecore_testing.sandbox import Sandbox, recipe


def check_follows_the_format(subject: Subject) -> None:
    """The JSON follows the schema and lists no tensor twice."""
    parse_definition(_class(subject), subject.loaded, "of the plugin")


def check_knows_its_model(subject: Subject) -> None:
    """Every tensor of a model is known and none is missing, both with and without the optional tensors."""
    with folder() as there:
        for bare in (False, True):
            _expect_fit(subject, write_checkpoint(there / str(bare), subject.name, subject.loaded, bare=bare))


def check_knows_a_real_model(subject: Subject) -> None:
    """Every tensor of a real checkpoint is known and none is missing."""
    assert subject.model is not None
    _expect_fit(subject, subject.model)


def check_merges_every_tensor(subject: Subject) -> None:
    """A merge of two models has all their tensors, each equal to the mean of the two."""
    import torch
    from safetensors.torch import load_file

    with folder() as there:
        models = [str(write_checkpoint(there / str(n), subject.name, subject.loaded, seed=n)) for n in range(2)]
        out = _sandbox(subject).run(recipe("kit-mean", models), there / "out")
        one, other, got = (load_file(Path(path, "model.safetensors")) for path in (*models, str(out)))
        expect(
            got.keys() == one.keys(), f"{subject}: a merge and its models differ in tensors: {got.keys() ^ one.keys()}"
        )
        wrong = [name for name in got if not torch.equal(got[name], 0.5 * one[name] + 0.5 * other[name])]
        expect(not wrong, f"{subject}: {wrong[:3]} are not the mean of the two models")


def check_keeps_the_first_layers(subject: Subject) -> None:
    """A recipe that omits the last layer produces a model without it, which also matches the definition."""
    with folder() as there:
        model = str(write_checkpoint(there / "model", subject.name, subject.loaded))
        architecture = parse_definition(_class(subject), subject.loaded, "of the plugin")
        modules: dict[str, Any] = {}
        for name, module in architecture.modules.items():
            slices = [{"sources": [{"model": model, "layer_range": [n, n + 1]}]} for n in range(2)]
            modules[name] = {"slices": slices} if module.layers_key else {"models": [{"model": model}]}
        if not any("slices" in module for module in modules.values()):
            return
        sandbox = _sandbox(subject)
        plan = sandbox.plan({"merge_method": "kit-mean", "modules": modules, "parameters": {"weight": 1}})
        try:
            counts = {module.layer_count(plan.config, "the output") for module in plan.architecture.modules.values()}
            known = {weight.name for weight in plan.architecture.weights(plan.config, "the output")}
        finally:
            plan.close()
        expect(counts <= {0, 2}, f"{subject}: the config of a model with two layers says {sorted(counts)}")
        unknown = sorted(set(plan.tensors) - known)
        expect(not unknown, f"{subject}: a model with two layers has unknown tensors: {unknown[:3]}")


def _class(subject: Subject) -> str:
    return subject.name.partition("/")[0]


def _sandbox(subject: Subject) -> Sandbox:
    return Sandbox(definitions={subject.name: subject.loaded})


def _expect_fit(subject: Subject, model: Path) -> None:
    checkpoint = open_model(str(model), _sandbox(subject))
    try:
        findings = compare_names(parse_definition(_class(subject), subject.loaded, "of the plugin"), checkpoint)
    finally:
        checkpoint.close()
    expect(not findings.unknown, f"{subject}: does not know {findings.unknown[:3]} in {model}")
    expect(not findings.missing, f"{subject}: {model} has no {findings.missing[:3]}; mark them as optional")
