"""The output of a search: a line per trial while it runs, then a table and a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mergecore.tooling import say
from mergecore_search import pictures, tables
from mergecore_search.evolution import pareto
from mergecore_search.history import Trial
from mergecore_search.mixing import Mixture
from mergecore_search.objectives import Objectives, total
from mergecore_search.setup import Setup
from mergecore_search.space import Space

SHOWN = 10
"""Number of rows of a search's table to show in the terminal. The file has all rows."""


def told(objectives: Objectives, count: int) -> Callable[[Trial], None]:
    """Return a function that prints a line for each trial."""
    seen = 0

    def tell(trial: Trial) -> None:
        nonlocal seen
        seen += 1
        found = ", ".join(f"{name} {loss:.4f}" for name, loss in zip(objectives.names, trial.losses, strict=True))
        say(f"{seen}/{count}: {trial.failed or found}")

    return tell


def _label(objectives: Objectives) -> str:
    return objectives.names[0] if len(objectives.names) == 1 else f"mean of {' and '.join(objectives.names)}"


def report_search(setup: Setup, trials: Sequence[Trial], best: Trial | None) -> None:
    """Write ``history.tsv``, ``history.svg``, and for several objectives ``front.tsv``, and print the best trials."""
    names = setup.objectives.names
    heads = ["number", *names, *(trials[0].values if trials else ()), "failed"]
    rows = [[number, *trial.losses, *trial.values.values(), trial.failed] for number, trial in enumerate(trials, 1)]
    setup.write("history.tsv", tables.tabbed(heads, rows))
    setup.write("history.svg", pictures.course([total(trial.losses) for trial in trials], _label(setup.objectives)))
    if len(names) > 1:
        ahead = pareto(trials)
        setup.write(
            "front.tsv", tables.tabbed(heads, [row for row, trial in zip(rows, trials, strict=True) if trial in ahead])
        )
    order = sorted(range(len(trials)), key=lambda index: total(trials[index].losses))[:SHOWN]
    if best is not None:
        tables.show(heads[:-1], [rows[index][:-1] for index in order], marked=0)


def report_grid(
    setup: Setup, space: Space, axes: Sequence[Sequence[float]], trials: Sequence[Trial], best: Trial | None
) -> None:
    """Write ``grid.tsv`` and ``grid.svg``. If there are two open values, the first one goes down."""
    heads = [*(one.name for one in space.dimensions), *setup.objectives.names, "failed"]
    rows = [[*trial.values.values(), *trial.losses, trial.failed] for trial in trials]
    setup.write("grid.tsv", tables.tabbed(heads, rows))
    losses = [total(trial.losses) for trial in trials]
    words = [[tables.spell(one.at(share)) for share in axis] for one, axis in zip(space.dimensions, axes, strict=True)]
    width = len(words[-1])
    grid = [losses[start : start + width] for start in range(0, len(losses), width)]
    down, names = (
        (words[0], [one.name for one in space.dimensions]) if len(words) > 1 else ([""], ["", space.dimensions[0].name])
    )
    setup.write("grid.svg", pictures.heatmap(grid, words[-1], down, (names[-1], names[0], _label(setup.objectives))))
    marked = next((index for index, trial in enumerate(trials) if trial is best), None)
    tables.show(heads[:-1], [row[:-1] for row in rows], marked)


def report_mixtures(setup: Setup, models: Sequence[Path], tried: Sequence[Mixture], best: Mixture) -> None:
    """Write ``soup.tsv`` with every mixture that was tried."""
    heads = ["models", *setup.objectives.names]
    rows: list[list[Any]] = [[" + ".join(models[index].name for index in one.models), *one.losses] for one in tried]
    setup.write("soup.tsv", tables.tabbed(heads, rows))
    tables.show(heads, rows, marked=next(index for index, one in enumerate(tried) if one is best))


def report_weights(
    setup: Setup, models: Sequence[Path], losses: Sequence[Sequence[float]], weights: Sequence[float]
) -> None:
    """Write ``cocktail.tsv`` with every model's losses and weight."""
    heads = ["model", *setup.objectives.names, "weight"]
    rows: list[list[Any]] = [[str(m), *row, weight] for m, row, weight in zip(models, losses, weights, strict=True)]
    setup.write("cocktail.tsv", tables.tabbed(heads, rows))
    tables.show(heads, rows, marked=max(range(len(weights)), key=weights.__getitem__))
