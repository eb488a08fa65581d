"""The outcome of a check."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: Name of the check.
        passed: Whether the check passed. None if it was skipped.
        text: Readable description.
    """

    check: str
    passed: bool | None
    text: str


def skipped(check: str, reason: str) -> Finding:
    """Return the finding of a check that was skipped."""
    return Finding(check, None, f"not checked: {reason}")


def few(names: Collection[str]) -> str:
    """Join up to three names, and count the rest."""
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
