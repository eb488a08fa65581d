"""Load architecture definitions from files: those of a recipe, of a folder, and of MERGECORE_ARCH_PATH."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergecore.api import read_json
from mergecore.definitions.parsing import parse_definition
from mergecore.documents import Place
from mergecore.errors import ArchitectureError, ModelError

PATH_VARIABLE = "MERGECORE_ARCH_PATH"
"""Environment variable with folders of architecture files, separated as in PATH."""

LIMIT = 10**7
"""Maximum size of an architecture file in bytes. Real files are a few kilobytes."""


def load_definition(path: Path) -> Mapping[str, Any]:
    """Load an architecture file.

    Raises:
        ArchitectureError: if it cannot be read, or does not list its model classes.
    """
    try:
        definition = read_json(path, LIMIT)
    except ModelError as error:
        raise ArchitectureError(str(error)) from None
    classes = definition.get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ArchitectureError(f'{path}: must list its model classes, such as "classes": ["LlamaForCausalLM"]')
    parse_definition(classes[0], definition, str(path))
    return definition


def load_definitions(paths: Sequence[Path]) -> dict[str, Any]:
    """Load architectures by class name from files and from JSON files in folders. The first file with a class wins."""
    found: dict[str, Any] = {}
    for path in paths:
        if not path.exists():
            raise ArchitectureError(f"{path}: no such architecture file or folder")
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            definition = load_definition(file)
            for name in definition["classes"]:
                found.setdefault(name, definition)
    return found


def definition_paths(folders: Sequence[Path]) -> list[Path]:
    """Return these folders, then those in MERGECORE_ARCH_PATH."""
    return [*folders, *(Path(part) for part in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if part)]


def local_definitions(folders: Sequence[Path]) -> dict[str, Any]:
    """Load the architectures in these folders, then those in MERGECORE_ARCH_PATH."""
    return load_definitions(definition_paths(folders))


def recipe_definitions(architectures: Sequence[tuple[Path, Place]]) -> dict[str, Any]:
    """Load the architecture files listed in the recipe."""
    found: dict[str, Any] = {}
    for path, place in architectures:
        try:
            found = {**load_definitions([path]), **found}
        except ArchitectureError as error:
            raise place.error(str(error)) from None
    return found
