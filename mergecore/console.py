"""Lines for people, beside the results: on standard error."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """A line of news."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """A line about something that may not be as wanted."""
    say(f"warning: {text}")
