"""Recipes and parameters that are given in Python: check that they contain only the values that YAML has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mergecore.documents import MAX_DEPTH, Path_, spell
from mergecore.errors import RecipeError


def plain(value: Any, path: Path_ = ()) -> Any:
    """Return a copy of a value with only dicts, lists, str, int, float, bool, and None, which replace their subclasses.

    Raises:
        RecipeError: if it contains anything else, such as NumPy numbers or a `pathlib.Path`.
    """
    if len(path) > MAX_DEPTH:
        raise RecipeError(f"is nested too deeply (more than {MAX_DEPTH} levels)", path=spell(path[:3]))
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RecipeError(f"the key {key!r} must be a string, not {type_name(key)}", path=spell(path))
        return {str(key): plain(item, (*path, str(key))) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, (*path, index)) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise RecipeError(f"must be a plain Python value, not {type_name(value)}; {_cure(value)}", path=spell(path))


def type_name(value: Any) -> str:
    """Return the name of a value's type for an error message, with its module unless it is built in."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _cure(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return "use str(...)"
    if hasattr(value, "tolist"):  # NumPy and torch
        return "use .tolist()"
    return "use a dict, list, str, int, float, bool, or None"
