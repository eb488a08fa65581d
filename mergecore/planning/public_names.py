"""Replace private paths in the texts of a result. Models become names, and other files become relative paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mergecore.api import hub_reference
from mergecore.models import split_adapters
from mergecore.recipes import Recipe

_PATH = re.compile(r"(?<![\w.:/<>\\~-])~?/[^\s'\"`,;(){}\[\]<>|*?$]+")
"""Something that looks like an absolute path in free text, such as a comment."""


class PublicNames:
    """Names for local models, and texts with these names in place of paths.

    Args:
        references: references of models, with or without adapters.
        files: replacements of other paths.
        taken: names that no model can have.
    """

    def __init__(
        self, references: Iterable[str], files: Mapping[str, str] | None = None, taken: Iterable[str] = ()
    ) -> None:
        parts = {part for reference in references for part in _parts(reference)}
        taken = {part for part in parts if not _is_private(part)} | set(taken)
        self._names: dict[str, str] = {}
        self._files = {path: name for path, name in (files or {}).items() if path not in parts}
        for part in sorted(filter(_is_private, parts)):
            same = next((name for other, name in self._names.items() if _folder(other) == _folder(part)), None)
            self._names[part] = same or _unused(_name(part), taken)
            taken.add(self._names[part])

    @classmethod
    def of_recipe(cls, recipe: Recipe, others: Iterable[str] = ()) -> PublicNames:
        """Return the names for a recipe with its stages.

        Args:
            recipe: the recipe. Paths of files in it become relative to its folder.
            others: references of models that it does not merge, such as the source of a tokenizer.
        """
        recipes, folder = [recipe, *_stages(recipe)], recipe.place.folder
        references = [name for item in recipes for name in item.models]
        files = {text: os.path.relpath(os.path.expanduser(text), folder) for text in _strings(recipe.place.value)
                 if _is_private(text) and _exists(text)}  # fmt: skip
        return cls([*references, *others], files, (str(item.name) for item in recipes))

    def reference(self, reference: str) -> str:
        """Return a model reference without private paths."""
        return "+".join(self._names.get(part, part) for part in _parts(reference))

    def text(self, text: str) -> str:
        """Return a text, such as a recipe or a command line, without private paths."""
        known = self._names | self._files
        for path in sorted(known, key=len, reverse=True):
            plain = r"\s+".join(map(re.escape, path.rstrip("/").split(" ")))  # YAML can fold a line at a space
            whole = plain + r"/*(?:\.(?=\+))?(?![\w.-])"
            text = re.sub(whole, lambda _, name=known[path]: name, text)  # type: ignore[misc]
        return _PATH.sub(_shortened, text)


def _parts(reference: str) -> list[str]:
    """Return the base and the adapters of a reference."""
    base, adapters = split_adapters(reference)
    return [base.removesuffix("/.") if adapters else base, *adapters]


def _is_private(text: str) -> bool:
    return "\n" not in text and text.startswith(("/", "~"))


def _folder(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))


def _exists(path: str) -> bool:
    try:
        return os.path.exists(os.path.expanduser(path))
    except ValueError:  # it contains a null character
        return False


def _name(path: str) -> str:
    """Return the reference on the Hub of a model in the Hub's cache, or else the name of the folder."""
    return hub_reference(Path(_folder(path))) or Path(os.path.abspath(os.path.expanduser(path))).name or "model"


def _unused(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    return next(new for number in range(2, len(taken) + 3) if (new := f"{name}-{number}") not in taken)


def _shortened(found: re.Match[str]) -> str:
    """Return the name of a file for an absolute path that exists here or is in the user's home folder."""
    path = found.group()
    home = os.path.expanduser("~")
    below_home = path.startswith("~") or (home != "/" and path.startswith(f"{home}/"))
    deep = path.strip("/").count("/") > 0
    return Path(path).name if below_home or (deep and _exists(path.rstrip(".:"))) else path


def _stages(recipe: Recipe) -> Iterator[Recipe]:
    for stage in {**recipe.others, **recipe.stages}.values():
        yield stage
        yield from _stages(stage)


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in a YAML document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
