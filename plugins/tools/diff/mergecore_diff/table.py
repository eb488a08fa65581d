"""Print a comparison as tables in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mergecore.tooling import printable
from mergecore_diff.differences import dtypes
from mergecore_diff.report import Report
from mergecore_diff.survey import Measured
from mergecore_diff.verdict import THRESHOLDS, percent

LONGEST = 60
"""Maximum number of characters shown for a value."""

WIDTH = 200
"""Width of a table that is written to a file."""


def print_report(found: Report, weights: bool) -> None:
    """Print a report. With `weights`, print one line per weight instead of per layer."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    survey = found.survey
    console.print(_models(found))
    if survey.measured:
        each = {item.row.name: [item] for item in survey.measured}
        groups = (
            {"weight": each}
            if weights
            else {"layer": survey.layers, "kind": survey.kinds, "outside the layers": survey.outside}
        )
        for title, rows in groups.items():
            if rows:
                console.print(_numbers(found, title, rows))
        if any(not rank.exact for item in survey.measured for rank in item.ranks.values()):
            console.print("~ The ranks of wide matrices are estimated with random vectors.", style="dim")
    _print_differences(console, found)
    for note in survey.lineup.notes:
        console.print(f"note  {printable(note)}", style="yellow")
    for sentence in found.verdict:
        console.print(printable(sentence), style="bold")
    console.print(THRESHOLDS, style="dim")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(printable(column), justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _models(found: Report) -> Table:
    table = _table("", "model", "tensors", "dtypes", "MB")
    table.columns[1].justify = "left"
    for index, checkpoint in enumerate(found.survey.lineup.checkpoints):
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in dtypes(checkpoint).items())
        size = sum(info.nbytes for info in checkpoint.tensors.values()) / 1e6
        label = printable(checkpoint.reference)
        table.add_row("base" if index == 0 else str(index), label, str(len(checkpoint.tensors)), kinds, f"{size:,.1f}")
    return table


def _numbers(found: Report, title: str, rows: dict[str, list[Measured]]) -> Table:
    """Return a table with each model's change and rank, and each pair's cosine and share of opposite signs."""
    survey, lineup = found.survey, found.survey.lineup
    pairs = lineup.pairs
    headings = [f"{what} {model}" for what in ("change", "rank") for model in lineup.others]
    headings += [f"{what} {one},{other}" for what in ("cosine", "opposite") for one, other in pairs]
    table = _table(title, *headings)
    for label, items in [*rows.items(), ("all", [item for group in rows.values() for item in group])]:
        changes = [percent(survey.change(model, items).relative) for model in lineup.others]
        ranks = [_rank(found, model, items) for model in lineup.others]
        clashes = [survey.clash(pair, items) for pair in pairs]
        cosines = [_cell(f"{clash.cosine:.3f}", clash.cosine) for clash in clashes]
        opposite = [_cell(f"{clash.conflict:.0%}", clash.conflict) for clash in clashes]
        table.add_row(printable(label), *changes, *ranks, *cosines, *opposite)
    return table


def _rank(found: Report, model: int, items: Iterable[Measured]) -> str:
    rank = found.survey.rank(model, items)
    return "" if rank is None else f"{'' if rank.exact else '~'}{rank.value:.1f}"


def _cell(text: str, value: float) -> str:
    return "" if math.isnan(value) else text


def _print_differences(console: Console, found: Report) -> None:
    for title, values in (("config", found.config), ("tokenizer", found.tokenizer)):
        if values:
            table = _table(title, *found.names)
            for key, row in values.items():
                table.add_row(printable(key), *map(shown, row))
            console.print(table)
    for name, tokens in zip(found.names, found.tokens):
        if tokens and not tokens.same:
            console.print(
                f"tokens  {printable(name)} has {tokens.own}, {printable(found.names[0])} has {tokens.base};"
                f" {tokens.shared} are in both, {tokens.same_number} with the same ID"
            )
    lineup = found.survey.lineup
    for what, missing in (("is missing", lineup.lacking), ("adds", lineup.added), ("reshapes", lineup.reshaped)):
        for model, names in missing.items():
            console.print(f"{printable(found.names[model])} {what} {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return printable(", ".join(names[:3]) + more)


def shown(value: Any) -> str:
    """Format a config value as one short line."""
    text = printable(value if isinstance(value, str) else repr(value))
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
