"""`mergecore eval` and `mergecore board`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergecore.api import Score
from mergecore.tooling import AsJson, Quiet, Registry, load_evaluations, printable, say, warn, write_whole

if TYPE_CHECKING:
    from rich.text import Text

    from mergecore_eval.board import Board

Results = Annotated[Path | None, typer.Option("--results", help="The file of all results, one JSON object per line.")]


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Model folders, or BASE+ADAPTER.", show_default=False)],
    wanted: Annotated[Path, typer.Option("--with", help="A YAML file with an 'evaluate' key, such as a recipe.")],
    results: Results = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run the evaluations in a file on MODELS, print the scores, and save them for the board."""
    from mergecore_eval.added import check_models, model_folder
    from mergecore_eval.board import gather
    from mergecore_eval.results import append, measure, results_file
    from mergecore_eval.subjects import Folder

    evaluations, path = load_evaluations(wanted, Registry(warn)), results or results_file()
    check_models(models)
    found = []
    for model in models:
        with model_folder(model) as folder:
            found.append(measure(Folder(folder, model), evaluations, tell=partial(_tell, quiet, model)))
        append(found[-1], path)
    if as_json:
        print(json.dumps([result.plain() for result in found], indent=2))
    else:
        _show(gather(found))


def board(
    results: Results = None,
    page: Annotated[Path | None, typer.Option("--html", help="Write the board to this HTML file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show all saved results, with models in rows and scores in columns."""
    from mergecore_eval import board as boards
    from mergecore_eval.results import load, results_file

    found = load(results or results_file())
    if page is not None:
        write_whole(page, boards.page(boards.gather(found)))
        say(f"wrote {page}")
    elif as_json:
        print(json.dumps([result.plain() for result in found], indent=2))
    else:
        _show(boards.gather(found))


def _tell(quiet: bool, model: str, name: str) -> None:
    if not quiet:
        say(f"{model}: {name}")


def _show(board: Board) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mergecore_eval.board import heading

    lines: list[Sequence[Text]] = [[Text(""), *(Text(printable(heading(column))) for column in board.columns)]]
    for model, found, _ in board.rows:
        cells = [_cell(found.get(column), board.best(column)) for column in board.columns]
        lines.append([Text(printable(model)), *cells])
    if len(board.columns) > len(board.rows):  # the longer dimension goes down the page
        lines = list(zip(*lines, strict=True))
    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(lines[0]):
        table.add_column(head, justify="right" if number else "left", overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    Console(highlight=False).print(table)


def _cell(score: Score | None, best: float | None) -> Text:
    from rich.text import Text

    from mergecore_eval.board import spell

    if score is None:
        return Text("")
    return Text(spell(score), style="bold green" if score.value == best else "")
