"""Read mergecore.lock.json, which records the inputs of a result, and check that they still exist unchanged."""

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

from mergecore.api import ModelError, read_json
from mergecore.documents import Place
from mergecore.errors import InputError, RecipeError
from mergecore.models import matches_fingerprint
from mergecore.validation import check

LOCK_NAME = "mergecore.lock.json"
LOCK_KEY = "mergecore_lock"
"""The key that identifies a lock file. Its value is the version of the format."""

LOCK_VERSION = 2
"""Version of the format that is written. Version 2 added ``tree`` to the hashes of files. Version 1 can be read too."""

LIMIT = 10**7
"""Maximum size of a lock file in bytes. With a thousand files, it is about 200 KB."""


@dataclass(frozen=True)
class Lock:
    """A loaded lock file.

    Attributes:
        file: path of the lock file.
        value: its contents, as described by `lock.schema.json`.
    """

    file: Path
    value: Mapping[str, Any]

    @property
    def recipe_file(self) -> str:
        """Path of the original recipe, which file names in the recipe are relative to."""
        return os.path.normpath(self.file.parent / str(self.value["recipe_file"]))

    def where(self, reference: str) -> str:
        """Return the reference to open for a model of the recipe: its recorded folder or Hub commit.

        Raises:
            InputError: if the recorded folder no longer exists.
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
        if found := next((path for path in (folder, Path(os.path.expanduser(reference))) if path.is_dir()), None):
            return str(found)
        raise InputError(f"{self.file}: the model {reference} is not in {folder}; move it there, or change its"
                         " 'folder' in the lock file")  # fmt: skip

    def check_input(self, reference: str, folder: Path, on_hub: bool) -> None:
        """Raise InputError with the name of the first file of a model that has changed.

        Args:
            reference: reference of the model.
            folder: folder of the model.
            on_hub: True if it is a commit on the Hub, in which case files that are not downloaded yet cannot differ.
        """
        entry = self._entry(reference)
        known = entry["files"].items() if entry else ()
        files = [(Path(os.path.normpath(folder / name)), item) for name, item in known]
        files = [(path, item) for path, item in files if not on_hub or path.exists()]
        with ThreadPoolExecutor() as pool:
            for (path, _), same in zip(files, pool.map(lambda item: matches_fingerprint(*item), files)):
                if not same:
                    raise InputError(
                        f"{path}: is not the file recorded in {self.file}; restore that file, or run the recipe"
                        f" instead of the lock file to use the current one"
                    )

    def changed_outputs(self, workers: int) -> list[str]:
        """Return the files of the result that differ from the lock file or are missing, checked in threads."""
        outputs: Mapping[str, Any] = self.value["outputs"]
        with ThreadPoolExecutor(workers) as pool:
            same = pool.map(lambda name: matches_fingerprint(self.file.parent / name, outputs[name]), outputs)
            return [name for name, is_same in zip(outputs, same) if not is_same]

    def _entry(self, reference: str) -> Mapping[str, Any] | None:
        inputs: Sequence[Mapping[str, Any]] = self.value["inputs"]
        return next((item for item in inputs if item["reference"] == reference), None)


def read_lock(path: Path) -> Lock | None:
    """Load a lock file. Return None if the file is something else, such as a recipe.

    Raises:
        RecipeError: if it is a lock file with an unsupported version or structure.
    """
    try:
        value = read_json(path, LIMIT)
    except ModelError:
        return None
    if LOCK_KEY not in value:
        return None
    if value[LOCK_KEY] not in (1, LOCK_VERSION):
        raise RecipeError(
            f"is a lock file of version {value[LOCK_KEY]!r}: pip install --upgrade mergecore", file=str(path)
        )
    check(Place(value, (), str(path)), _schema())
    return Lock(path, value)


@lru_cache(maxsize=1)
def _schema() -> Mapping[str, Any]:
    schema: Mapping[str, Any] = json.loads(files("mergecore.recipes").joinpath("lock.schema.json").read_text("utf-8"))
    return schema
