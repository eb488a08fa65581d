"""What a check has to say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: its name.
        passed: whether all is well; None: nothing was checked.
        text: the sentence for people.
    """

    check: str
    passed: bool | None
    text: str


def skipped(check: str, reason: str) -> Finding:
    """A check that could not be made."""
    return Finding(check, None, f"not checked: {reason}")


def few(names: Collection[str]) -> str:
    """The first names of many."""
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
