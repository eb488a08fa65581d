"""Format rows of numbers as a table for terminals, or as tab-separated text for files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mergecore.tooling import printable


def spell(value: Any) -> str:
    """Format a cell: numbers with four digits, or "failed"."""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "failed"
    return str(value)


def tabbed(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return tab-separated lines with all digits."""
    lines = ["\t".join(heads), *("\t".join(map(str, row)) for row in rows)]
    return "\n".join(lines) + "\n"


def show(heads: Sequence[str], rows: Sequence[Sequence[Any]], marked: int | None = None) -> None:
    """Print a table, with one row in bold."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(printable(head), justify="right" if number else "left", overflow="fold")
    for number, row in enumerate(rows):
        style = "bold green" if number == marked else ""
        table.add_row(*(Text(printable(spell(cell)), style=style) for cell in row))
    Console(highlight=False).print(table)
