"""The errors that people see: one sentence each, with where it is and what to type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MergecoreError(Exception):
    """Anything that mergecore reports without a traceback; `exit_code` is what the command line returns."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class RunError(MergecoreError):
    """A run that failed on the way: a disk, a worker, values that do not agree (exit 1)."""


class InputError(MergecoreError):
    """Something to mend in the recipe, the models or the plugins (exit 2)."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe that cannot be right.

    Args:
        message: what is wrong and what to write instead.
        file: the recipe's file, if it came from one.
        line: 1-based line in that file.
        path: the place inside the recipe, such as ``models[1].parameters.weight``.
    """

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None, path: str = "") -> None:
        place = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(": ".join(part for part in (place, path, message) if part))
        self.file, self.line, self.path = file, line, path


class ModelError(InputError):
    """A checkpoint that cannot be used; the message names its file or folder."""


class ArchitectureError(InputError):
    """A missing or wrong architecture definition, or a checkpoint that does not fit it."""


class PluginError(InputError):
    """A plugin that is missing, broken or claimed twice; the message names its distribution."""


def printable(text: str) -> str:
    """Text on one line with every control or invisible character spelt out, so that a name cannot forge output."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'ties'?``, or nothing when no known name is close."""
    spellings = {item.casefold(): item for item in known}
    close = difflib.get_close_matches(name.casefold(), list(spellings), n=1, cutoff=0.6)
    return f"; did you mean {spellings[close[0]]!r}?" if close else ""
