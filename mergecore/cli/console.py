"""Print messages for the user on standard error, separate from results."""

from __future__ import annotations

import sys

from mergecore.errors import printable


def say(text: str) -> None:
    """Print a message."""
    print(printable(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print a warning."""
    say(f"warning: {text}")
