"""A table of all results, for terminals and as one self-contained HTML page."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mergecore.api import Score
from mergecore_eval.results import Result

Column = tuple[str, str]
"""The names of an evaluation and of its score."""


@dataclass(frozen=True)
class Board:
    """Models in rows and scores in columns. If a model was measured repeatedly, the latest value of each score."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, dict[Column, Score], float], ...]

    def best(self, column: Column) -> float | None:
        """Return the best value of a column, or None if there is nothing to compare."""
        scores = [found[column] for _, found, _ in self.rows if column in found]
        if len(scores) < 2:
            return None
        values = [score.value for score in scores]
        return max(values) if scores[0].higher_is_better else min(values)


def gather(results: Sequence[Result]) -> Board:
    """Build a board from results, with models in the order of their latest measurement."""
    rows: dict[str, tuple[dict[Column, Score], float]] = {}
    for result in results:
        found = dict(rows.pop(result.model, ({}, 0.0))[0])
        found.update({(name, score.name): score for name, scores in result.scores.items() for score in scores})
        rows[result.model] = found, result.when
    columns = tuple(dict.fromkeys(column for found, _ in rows.values() for column in found))
    return Board(columns, tuple((model, *row) for model, row in rows.items()))


def spell(score: Score) -> str:
    """Format a score for humans: ``2.513 ± 0.020``."""
    return f"{score.value:.3f} ± {score.error:.3f}" if score.error else f"{score.value:.3f}"


def heading(column: Column) -> str:
    """Return a column's name: the names of the evaluation and the score, or just one if they are equal."""
    return column[0] if column[0] == column[1] else f"{column[0]} {column[1]}"


def page(board: Board) -> str:
    """Render the board as an HTML page. Clicking a heading sorts by that column."""
    heads = ["model", *map(heading, board.columns), "measured"]
    body = "\n".join(_row(board, *row) for row in board.rows)
    cells = "".join(f'<th scope="col" tabindex="0">{html.escape(head)}</th>' for head in heads)
    return PAGE.replace("@heads@", cells).replace("@rows@", body)


def _row(board: Board, model: str, found: dict[Column, Score], when: float) -> str:
    cells = [f'<th scope="row">{html.escape(model)}</th>']
    for column in board.columns:
        score = found.get(column)
        if score is None:
            cells.append("<td></td>")
            continue
        best = ' class="best"' if score.value == board.best(column) else ""
        title = f"{score.count} samples, {'higher' if score.higher_is_better else 'lower'} is better"
        cells.append(f'<td{best} data-value="{score.value!r}" title="{title}">{html.escape(spell(score))}</td>')
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
    return f'<tr>{"".join(cells)}<td data-value="{when!r}">{date}</td></tr>'


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mergecore board</title>
<style>
:root { color-scheme: light dark; --line: #8884; --best: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --best: #56d364; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; font-weight: 600; }
div { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .8rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
thead th { cursor: pointer; font-weight: 600; }
tbody th { font-weight: 400; }
.best { color: var(--best); font-weight: 600; }
</style>
<h1>mergecore board</h1>
<div><table><thead><tr>@heads@</tr></thead><tbody>
@rows@
</tbody></table></div>
<script>
const body = document.querySelector("tbody");
const value = (row, index) => row.cells[index].dataset.value ?? row.cells[index].textContent;
document.querySelectorAll("thead th").forEach((head, index) => {
  let down = false;
  const sort = () => {
    down = !down;
    const compare = (a, b) => value(a, index).localeCompare(value(b, index), undefined, { numeric: true });
    const numbers = (a, b) => (parseFloat(value(a, index)) || 0) - (parseFloat(value(b, index)) || 0);
    const rows = [...body.rows].sort(index ? numbers : compare);
    body.append(...(down ? rows : rows.reverse()));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
});
</script>
</html>
"""
