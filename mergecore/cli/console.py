"""Print messages for the user on standard error, separate from results."""

from __future__ import annotations

import sys

from mergecore.errors import Excerpt, RecipeError, printable

MOST = 20
"""Maximum number of errors to print."""

WIDTH = 100
"""Maximum length of an excerpt. Only a part of a longer line is printed."""


def say(text: str) -> None:
    """Print a message."""
    print(printable(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print a warning."""
    say(f"warning: {text}")


def say_errors(error: RecipeError) -> None:
    """Print the errors of a recipe, each with the line that it is about and a mark below it."""
    for item in error.errors[:MOST]:
        say(f"error: {item}")
        if item.excerpt and item.excerpt.text.strip():
            for line in marked(item.excerpt, item.line or 0):
                print(line, file=sys.stderr, flush=True)
    if len(error.errors) > MOST:
        say(f"{len(error.errors) - MOST} more errors")


def marked(excerpt: Excerpt, number: int) -> list[str]:
    """Return a line with its number, and a line that marks a part of it."""
    from rich.cells import cell_len

    begin = max(0, min(excerpt.start - WIDTH // 2, len(excerpt.text) - WIDTH))
    before, part, after = (
        printable(excerpt.text[start:end].replace("\t", " "))
        for start, end in ((begin, excerpt.start), (excerpt.start, excerpt.end), (excerpt.end, begin + WIDTH))
    )
    head = f"  {number} | "
    marks = "^" * max(1, min(cell_len(part), WIDTH - len(before)))
    line = f"{head}{before}{part}{after}"[: WIDTH + len(head)].rstrip()
    return [line, f"{' ' * (len(head) - 2)}| {' ' * cell_len(before)}{marks}"]
