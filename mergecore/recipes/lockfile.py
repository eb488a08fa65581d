"""mergecore.lock.json as another run reads it: what a result was made of, and whether it is all still there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mergecore.api import ModelError, read_text
from mergecore.documents import Place, check
from mergecore.errors import InputError, RecipeError
from mergecore.models import matches

NAME = "mergecore.lock.json"
KEY = "mergecore_lock"
"""The key that only a lock has; its value is the format's version."""

LIMIT = 10**7
"""Bytes that a lock may have; one of a thousand files has some 200 thousand."""


@dataclass(frozen=True)
class Lock:
    """A lock that has been read.

    Attributes:
        file: where it is.
        value: its content, as `lock.schema.json` describes it.
    """

    file: Path
    value: Mapping[str, Any]

    @property
    def recipe_file(self) -> str:
        """Where the recipe was: what file names in it are relative to."""
        return os.path.normpath(self.file.parent / str(self.value["recipe_file"]))

    def where(self, reference: str) -> str:
        """What to open for a model of the recipe: the folder, or the commit of the Hub's model, that it was then.

        Raises:
            InputError: it was a folder, and there is none any more.
        """
        entry = self._entry(reference)
        if entry is None or (entry["folder"] is None and not entry["revision"]):
            return reference
        adapters = [os.path.normpath(self.file.parent / folder) for folder in entry["adapters"]]
        return "+".join([self._base(reference.split("+", maxsplit=1)[0] if adapters else reference, entry), *adapters])

    def _base(self, reference: str, entry: Mapping[str, Any]) -> str:
        if entry["folder"] is None:
            return f"{reference.partition('@')[0]}@{entry['revision']}"
        folder = Path(os.path.normpath(self.file.parent / entry["folder"]))
        if found := next((path for path in (folder, Path(reference).expanduser()) if path.is_dir()), None):
            return str(found)
        raise InputError(f"{self.file}: the model {reference} is not in {folder}; put it there, or write its place"
                         " as its 'folder' in the lock")  # fmt: skip

    def check_input(self, reference: str, folder: Path, on_hub: bool) -> None:
        """Raise InputError naming the first file of a model that is not the one it was.

        Args:
            reference: to the model.
            folder: where it is.
            on_hub: whether it is the commit that it was, of which files that are not fetched yet cannot be others.
        """
        entry = self._entry(reference)
        known = entry["files"].items() if entry else ()
        files = [(Path(os.path.normpath(folder / name)), item) for name, item in known]
        files = [(path, item) for path, item in files if not on_hub or path.exists()]
        with ThreadPoolExecutor() as pool:
            for (path, _), same in zip(files, pool.map(lambda item: matches(*item), files)):
                if not same:
                    raise InputError(
                        f"{path}: is not the file that {self.file} was made of; bring that back, or run the recipe"
                        f" beside the lock instead, which takes what is there"
                    )

    def _entry(self, reference: str) -> Mapping[str, Any] | None:
        inputs: Sequence[Mapping[str, Any]] = self.value["inputs"]
        return next((item for item in inputs if item["reference"] == reference), None)


def read_lock(path: Path) -> Lock | None:
    """The lock in a file; None for a file that is something else, such as a recipe.

    Raises:
        RecipeError: it is a lock, but not as this version writes it.
    """
    try:
        text = read_text(path, LIMIT)
        value = json.loads(text) if text.lstrip().startswith("{") else None
    except (ModelError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or KEY not in value:
        return None
    if value[KEY] != 1:
        raise RecipeError(f"is a lock of version {value[KEY]!r}: pip install --upgrade mergecore", file=str(path))
    check(Place(value, (), str(path)), _schema())
    return Lock(path, value)


@lru_cache(maxsize=1)
def _schema() -> Mapping[str, Any]:
    schema: Mapping[str, Any] = json.loads(files("mergecore.recipes").joinpath("lock.schema.json").read_text("utf-8"))
    return schema
