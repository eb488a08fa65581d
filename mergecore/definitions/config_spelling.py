"""Configs in one spelling, whichever version of transformers wrote them, so that they can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergecore.definitions.config import leaves

ROPE_KEYS = ("rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq", "partial_rotary_factor")
"""Keys of position embeddings. Version 5 of transformers writes the first one alone, and version 4 the others."""


def spelled_alike(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config by dotted keys, with those of position embeddings as version 5 names them."""
    return dict(leaves(_respelled(config)))


def _respelled(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        key: _respelled(value) if isinstance(value, Mapping) and key not in ROPE_KEYS else value
        for key, value in config.items()
        if key not in ROPE_KEYS
    }
    given = {key: value for key in ROPE_KEYS if (value := config.get(key)) is not None}
    return {**found, **(_rope(given) if given else {})}


def _rope(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of position embeddings: one mapping, or one for each type of layer."""
    stated = given.get("rope_parameters") or given.get("rope_scaling") or {}
    if not isinstance(stated, Mapping):
        return {"rope_scaling": stated}
    if stated and all(isinstance(value, Mapping) or value is None for value in stated.values()):
        return {kind: _one(value or {}, {}) for kind, value in stated.items()}
    if "rope_local_base_freq" in given:
        return {
            "full_attention": _one(stated, given),
            "sliding_attention": _one({}, {"rope_theta": given["rope_local_base_freq"]}),
        }
    return _one(stated, given)


def _one(stated: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    outside = {key: given[key] for key in ("rope_theta", "partial_rotary_factor") if key in given}
    settings = {**outside, **stated}
    settings["rope_type"] = settings.pop("type", None) or settings.get("rope_type") or "default"
    return settings
