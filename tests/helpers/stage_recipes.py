"""Recipes for stages, and their results when each stage is written and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mergecore

Recipe = dict[str, Any]


BESIDE = ("README.md", "mergecore_recipe.yml", "mergecore.lock.json")
"""Files that contain names of models and recipes, which differ."""


def replaced(value: Any, models: Mapping[str, Any]) -> Any:
    """Return a recipe with some models replaced."""
    if isinstance(value, str):
        return models.get(value, value)
    if isinstance(value, list):
        return [replaced(item, models) for item in value]
    if isinstance(value, dict):
        return {key: replaced(item, models) for key, item in value.items()}
    return value


def apart(recipes: Sequence[Recipe], root: Path) -> Path:
    """Run the recipes one by one and write each result where the next one expects it."""
    written: dict[str, Any] = {}
    for number, recipe in enumerate(recipes):
        head = {"merge_method": recipe["merge_method"]}
        rest = {key: value for key, value in recipe.items() if key not in ("name", "merge_method")}
        folder = mergecore.run({**head, **replaced(rest, written)}, root / f"apart-{number}")
        if "name" in recipe:
            written[recipe["name"]] = str(folder)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in BESIDE}


def linear(*models: Any, **keys: Any) -> Recipe:
    entries = [{"model": model, "parameters": {"weight": 0.3 + 0.2 * n}} for n, model in enumerate(models)]
    return {"merge_method": "linear", "models": entries, **keys}


def ties(base: Any, *models: Any, **keys: Any) -> Recipe:
    entries = [{"model": model, "parameters": {"density": 0.4 + 0.1 * n}} for n, model in enumerate(models)]
    return {"merge_method": "ties", "base_model": base, "models": entries, **keys}
