"""Lines for people, beside the results: on standard error."""

from __future__ import annotations

import sys

from mergecore.errors import printable


def say(text: str) -> None:
    """A line of news."""
    print(printable(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A line about something that may not be as wanted."""
    say(f"warning: {text}")
