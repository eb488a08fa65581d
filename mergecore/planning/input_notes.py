"""Notes about the inputs of a plan: configs that differ from the output's, and licenses that conflict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mergecore.api import license_kind, license_words, licenses_conflict
from mergecore.definitions import spelled_alike
from mergecore.errors import InputError
from mergecore.models import Checkpoint

VOLATILE = {"dtype", "torch_dtype", "transformers_version", "use_cache", "architectures", "model_type"}
"""Config keys that can differ between models without a note, also in the config of a part."""

SHOWN = 8
"""Number of differences in a note."""


def config_notes(checkpoints: Sequence[Checkpoint], config_source: int, changed: set[str]) -> list[str]:
    """Return a note for each model whose config differs from the config source, not counting `changed` keys."""
    kept, lines = checkpoints[config_source], []
    for checkpoint in checkpoints:
        ours, theirs = kept.config, checkpoint.config
        if ours.get("architectures") != theirs.get("architectures"):
            ours = _like_part(ours, theirs)
        found = _differences(_compared(ours, changed), _compared(theirs, changed), ours is kept.config)
        if found:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            differing = ", ".join(found[:SHOWN]) + more
            lines.append(f"{checkpoint.reference}: config differs in {differing}; using that of {kept.reference}")
    return lines


def _like_part(config: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that describes the same model as another config, such as ``text_config``."""
    inner = [value for value in config.values() if isinstance(value, Mapping)]
    parts = [config, *inner, *(value for each in inner for value in each.values() if isinstance(value, Mapping))]
    return max(parts, key=lambda each: sum(each.get(key) == value for key, value in part.items()))


def _compared(config: Mapping[str, Any], changed: set[str]) -> dict[str, Any]:
    """Return the values of a config that matter for a comparison."""
    return {
        key: value
        for key, value in spelled_alike(config).items()
        if key not in changed and key.rpartition(".")[2] not in VOLATILE and not key.startswith("_")
    }


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], whole: bool) -> list[str]:
    """Describe the keys whose values differ. A key that only one of two whole configs has counts unless it is empty."""
    common = sorted(key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key])
    alone = sorted(key for key in ours.keys() ^ theirs.keys() if whole and (ours.get(key) or theirs.get(key)))
    return [
        *(f"{key} ({_short(theirs[key])}, not {_short(ours[key])})" for key in common),
        *(f"{key} ({_short(theirs[key])}, not set there)" for key in alone if key in theirs),
        *(f"{key} (not set, {_short(ours[key])} there)" for key in alone if key in ours),
    ]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 30 else f"{text[:27]}..."


def license_notes(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return a note with every model's license if the licenses could conflict."""
    if not licenses_conflict([checkpoint.card for checkpoint in checkpoints]):
        return []
    return [f"licenses: {_listed(checkpoints)}; read their terms before you share the result"]


def check_license(wanted: str, checkpoints: Sequence[Checkpoint]) -> None:
    """Raise InputError with every model whose license is not of the required type. "" allows all licenses."""
    others = [checkpoint for checkpoint in checkpoints if wanted and license_kind(checkpoint.card) != wanted]
    if others:
        raise InputError(f"--require-license {wanted}: {_listed(others)}; remove these models or the option")


def _listed(checkpoints: Sequence[Checkpoint]) -> str:
    return ", ".join(f"{item.reference}: {license_words(item.card, item.folder)}" for item in checkpoints)
