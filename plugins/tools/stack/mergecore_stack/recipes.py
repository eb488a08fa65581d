"""Build recipes of stacked layers as YAML, and plan them before they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergecore.api import InputError
from mergecore.tooling import (
    Architecture,
    Place,
    Registry,
    find_architecture,
    local_definitions,
    make_plan,
    memory_budget,
    open_model,
    parse_recipe,
    rename_tensors,
)
from mergecore_stack.drawing import Run

SCALED = "down_proj"
"""Part of the name of the weight that a slice's scale applies to, which is the last one in a layer."""


def layer_counts(models: Sequence[str], registry: Registry, module: str) -> tuple[Architecture, str | None, list[int]]:
    """Return the first model's architecture, the module to stack (None: the only one), and each model's layer count.

    Raises:
        InputError: A model cannot be opened or has no layers, or the module is ambiguous.
    """
    chosen: str | None = None
    first: Architecture | None = None
    counts = []
    for model in models:
        checkpoint = open_model(model, registry)
        try:
            architecture = find_architecture(checkpoint, registry, {})[0]
            if first is None:
                first, chosen = architecture, _module(architecture, model, module)
            shown, _ = rename_tensors(checkpoint, first)
            counts.append(first.modules[chosen or ""].layer_count(shown.config, model))
        finally:
            checkpoint.close()
    assert first is not None
    return first, chosen if len(first.modules) > 1 else None, counts


def _module(architecture: Architecture, model: str, wanted: str) -> str:
    stacks = [name for name, module in architecture.modules.items() if module.layers_key]
    if wanted and wanted not in stacks:
        raise InputError(f"--module: {architecture.name} has no layers in {wanted!r}, only in: {', '.join(stacks)}")
    if not stacks:
        raise InputError(f"{model}: {architecture.name} has no known layers")
    if not wanted and len(stacks) > 1:
        raise InputError(f"{model}: has layers in {', '.join(stacks)}; choose one with --module")
    return wanted or stacks[0]


def recipe(
    models: Sequence[str], runs: Sequence[Run], architecture: Architecture, module: str | None, dtype: str
) -> Any:
    """Return a passthrough recipe of these runs. Other modules come from the first model."""
    slices = [{"sources": [_source(models[run.model], run)]} for run in runs]
    head: dict[str, Any] = {"merge_method": "passthrough"}
    if module is None:
        head["slices"] = slices
    else:
        others = {
            name: {"models": [{"model": models[runs[0].model]}]} for name in architecture.modules if name != module
        }
        head["modules"] = {module: {"slices": slices}, **others}
    return {**head, "dtype": dtype} if dtype else head


def _source(model: str, run: Run) -> dict[str, Any]:
    source: dict[str, Any] = {"model": model, "layer_range": [run.start, run.end]}
    if run.scale is not None:
        source["parameters"] = {"scale": [{"filter": SCALED, "value": run.scale}, {"value": 1.0}]}
    return source


def check(value: Any, registry: Registry) -> tuple[str, ...]:
    """Plan a recipe and return the plan's notes.

    Raises:
        InputError: The recipe cannot be planned.
    """
    plan = make_plan(parse_recipe(Place(value), ""), registry, memory_budget())
    plan.close()
    return plan.notes


def as_yaml(value: Any, made_by: str) -> str:
    """Return a recipe as YAML, with the command that created it at the top."""
    import yaml

    return f"# {made_by}\n{yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=120)}"


def make_registry(arch_dir: Sequence[Path], warn: Any) -> Registry:
    """Return the registry of plugins, with local definitions."""
    return Registry(warn, local_definitions(arch_dir))
