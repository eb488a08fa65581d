"""Errors shown to users. Each message says what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class MergecoreError(Exception):
    """Base class for errors that are reported without a traceback. `exit_code` is the exit status of the command."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class RunError(MergecoreError):
    """A run failed, for example because of a disk error, a worker, or values that do not match (exit 1)."""


class InputError(MergecoreError):
    """Invalid input: something to fix in the recipe, the models, or the plugins (exit 2)."""

    exit_code = 2


class Excerpt(NamedTuple):
    """A line of a document, and the columns `start` to `end` that an error is about."""

    text: str
    start: int
    end: int


class RecipeError(InputError):
    """An invalid recipe.

    Args:
        message: what is wrong, and what to write instead.
        file: path of the recipe, if it was read from a file.
        line: 1-based line in that file.
        path: position in the recipe, such as ``models[1].parameters.weight``.
        excerpt: that line, if the recipe was read from text.

    Attributes:
        errors: all errors of the recipe, in the order of its lines. Often only this one.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        path: str = "",
        excerpt: Excerpt | None = None,
    ) -> None:
        place = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(": ".join(part for part in (place, path, message) if part))
        self.file, self.line, self.path, self.excerpt = file, line, path, excerpt
        self.errors: tuple[RecipeError, ...] = (self,)

    def __str__(self) -> str:
        return super().__str__() if len(self.errors) == 1 else "\n".join(map(str, self.errors))


def joined(found: Sequence[RecipeError]) -> RecipeError:
    """Return all errors found in a recipe as one. An error that was found twice is reported once."""
    errors = {str(error): error for one in found for error in one.errors}
    if len(errors) == 1:
        return next(iter(errors.values()))
    together = RecipeError(f"{len(errors)} errors")
    together.errors = tuple(sorted(errors.values(), key=_position))
    return together


def raise_all(found: Sequence[RecipeError]) -> None:
    """Raise all errors found in a recipe as one, if there are any."""
    if found:
        raise joined(found)


def _position(error: RecipeError) -> tuple[int, int]:
    return error.line or 0, error.excerpt.start if error.excerpt else 0


class ModelError(InputError):
    """A checkpoint that cannot be used. The message names its file or folder."""


class ArchitectureError(InputError):
    """A missing or invalid architecture definition, or a checkpoint that does not match it."""


class PluginError(InputError):
    """A plugin that is missing, broken, or provided by two distributions. The message names the distribution."""


def printable(text: str) -> str:
    """Escape all control and invisible characters, so that a name cannot forge output."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a name, or None if none is close."""
    spellings = {item.casefold(): item for item in known}
    close = difflib.get_close_matches(name.casefold(), list(spellings), n=1, cutoff=0.6)
    return spellings[close[0]] if close else None


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``; did you mean 'ties'?``, or an empty string if no known name is close."""
    close = closest(name, known)
    return "" if close is None else f"; did you mean {close!r}?"
