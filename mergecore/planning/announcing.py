"""Show a complete plan to the hooks, which can reject it or add notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mergecore.api import ModelInfo
from mergecore.discovery import Registry, installed_plugins
from mergecore.planning.plan import Plan

NEUTRAL = ("dtype", "torch_dtype", "transformers_version")
"""Keys of a config that do not change the names or shapes of weights."""


def announce(plan: Plan, registry: Registry) -> Plan:
    """Call the `after_plan` hooks, and return the plan with the notes that they added.

    Raises:
        InputError: if a hook rejects the plan.
    """
    notes = list(plan.notes)
    registry.notify(
        "after_plan",
        tensors=plan.tensors,
        notes=notes,
        models=tuple(checkpoint.info for checkpoint in plan.parents),
        config=plan.config,
        source=_changed_source(plan),
    )
    return replace(plan, notes=tuple(notes))


def kernels_note() -> list[str]:
    """Return a note on what the native code would bring, unless it is installed."""
    if installed_plugins("kernels"):
        return []
    return ["pip install mergecore-kernels: most methods then take half the time or less, with the same result"]


def _changed_source(plan: Plan) -> ModelInfo | None:
    """Return the model that the config is from. Return None if the output has the same names, shapes, and config."""
    source = plan.checkpoints[plan.config_source]
    ours, theirs = ({name: info.shape for name, info in item.tensors.items()} for item in (plan, source))
    same = ours == theirs and _structure(plan.config) == _structure(source.config)
    return None if same else source.info


def _structure(value: Any) -> Any:
    """Return a config without neutral keys, also in nested configs."""
    if isinstance(value, Mapping):
        return {key: _structure(item) for key, item in value.items() if key not in NEUTRAL}
    return value
