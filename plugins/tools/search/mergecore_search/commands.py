"""`mergecore evolve`, `soup`, `cocktail` and `sweep`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergecore.cli.console import say
from mergecore.cli.options import Force, Memory, Out
from mergecore.errors import InputError, RunError

if TYPE_CHECKING:
    from mergecore_search.history import Trial
    from mergecore_search.setup import Setup
    from mergecore_search.space import Space

Wanted = Annotated[Path, typer.Option("--with", help="A YAML file with 'evaluate': what tells better from worse.")]
Objective = Annotated[
    list[str], typer.Option("--objective", help="EVALUATION or EVALUATION/SCORE; default: the first score of each.")
]
Models = Annotated[list[Path], typer.Argument(help="Model folders, then the folder to make.", show_default=False)]
Open = Annotated[Path, typer.Argument(help="A recipe with values left open: {search: [0, 1]}.", show_default=False)]
Workers = Annotated[int, typer.Option("--workers", help="Candidates tried at one time, each in its process.", min=1)]
Ray = Annotated[str, typer.Option("--ray", help="Address of a Ray cluster to try them on, such as auto.")]


def evolve(
    recipe: Open,
    out: Out,
    wanted: Wanted,
    objective: Objective = [],  # noqa: B006  typer makes a new list each time
    evaluations: Annotated[int, typer.Option("--evaluations", help="Candidates in all.", min=1)] = 100,
    optimizer: Annotated[str, typer.Option(help="Name of an installed optimizer.")] = "cma",
    population: Annotated[int, typer.Option(help="Candidates a generation; default: the optimizer's.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same search.", min=0)] = 0,
    workers: Workers = 1,
    ray: Ray = "",
    memory: Memory = "",
    force: Force = False,
) -> None:
    """Find the open values of RECIPE and merge the best into OUT; a search that was cut short goes on where it was."""
    from mergecore_search import evolution
    from mergecore_search.genomes import read_space
    from mergecore_search.history import History
    from mergecore_search.reports import report_search, told
    from mergecore_search.setup import as_yaml, prepare
    from mergecore_search.trials import Task, trying

    setup = prepare(out, wanted, objective, memory, force)
    space = read_space(recipe, setup.registry)
    setup.check(space.at([0.5] * len(space.dimensions)))
    about = {
        "recipe": as_yaml(space.place.value),
        "evaluations": repr(setup.evaluations),
        "objectives": setup.objectives.names,
        "optimizer": optimizer,
        "population": population,
        "seed": seed,
    }
    search = setup.registry.provide("optimizers", optimizer)(len(space.dimensions), seed, population)
    setup.report.mkdir(parents=True, exist_ok=True)
    history = History(setup.report / "history.jsonl", about)
    if history.resumed:
        say(f"{history.path}: {history.resumed} candidates are known already")
    task = Task(space, setup.evaluations, setup.objectives, setup.memory // workers, cores(workers))
    with trying(task, workers, ray or None) as attempt:
        evolution.evolve(search, attempt, history, evaluations, workers, told(setup.objectives, evaluations))
    best = evolution.best(history.trials)
    report_search(setup, history.trials, best)
    _merge_best(setup, space, history.trials, best)


def sweep(
    recipe: Open,
    out: Out,
    wanted: Wanted,
    steps: Annotated[int, typer.Option(help="Values of each number, ends included.", min=2)] = 5,
    objective: Objective = [],  # noqa: B006
    workers: Workers = 1,
    ray: Ray = "",
    memory: Memory = "",
    force: Force = False,
) -> None:
    """Try one or two open values of RECIPE over a grid, show it as a heatmap, and merge the best into OUT."""
    from mergecore_search import evolution
    from mergecore_search.genomes import read_space
    from mergecore_search.reports import report_grid, told
    from mergecore_search.setup import prepare
    from mergecore_search.trials import Task, trying

    setup = prepare(out, wanted, objective, memory, force)
    space = read_space(recipe, setup.registry)
    if len(space.dimensions) > 2:
        raise space.place.error(f"leaves {len(space.dimensions)} values open, and a sweep takes one or two: use evolve")
    setup.check(space.at([0.5] * len(space.dimensions)))
    axes = [one.grid(steps) for one in space.dimensions]
    points = list(itertools.product(*axes))
    task = Task(space, setup.evaluations, setup.objectives, setup.memory // workers, cores(workers))
    tell, trials = told(setup.objectives, len(points)), []
    with trying(task, workers, ray or None) as attempt:
        for start in range(0, len(points), workers):
            for trial in attempt(points[start : start + workers]):
                trials.append(trial)
                tell(trial)
    best = evolution.best(trials)
    report_grid(setup, space, axes, trials, best)
    _merge_best(setup, space, trials, best)


def _merge_best(setup: Setup, space: Space, trials: Sequence[Trial], best: Trial | None) -> None:
    if best is None:
        raise RunError(f"all {len(trials)} candidates failed; the first: {trials[0].failed}")
    setup.merge(space.at(best.point))


def soup(
    models: Models,
    wanted: Wanted,
    uniform: Annotated[bool, typer.Option("--uniform", help="All models, without choosing.")] = False,
    objective: Objective = [],  # noqa: B006
    memory: Memory = "",
    force: Force = False,
) -> None:
    """Average MODELS: greedily, as long as the mean gets no worse (Model Soups), or all of them."""
    from mergecore_search.mixing import Mixture, greedy, losses_of_each, measured_mean
    from mergecore_search.objectives import total
    from mergecore_search.reports import report_mixtures
    from mergecore_search.setup import linear, prepare

    models, out = split(models)
    setup = prepare(out, wanted, objective, memory, force)
    setup.check(linear(models, [1.0] * len(models)))
    mean, maker = measured_mean(setup, models)
    try:
        if uniform:
            tried = [mean(tuple(range(len(models))))]
        else:
            alone = [Mixture((index,), losses) for index, losses in enumerate(losses_of_each(setup, models))]
            tried = greedy(alone, mean)
            tried = [*(one for one in alone if one.models != tried[0].models), *tried]
    finally:
        maker.close()
    best = tried[0] if uniform else min(reversed(tried), key=lambda one: total(one.losses))
    report_mixtures(setup, models, tried, best)
    setup.merge(linear([models[index] for index in best.models], [1.0] * len(best.models)))


def cocktail(
    models: Models,
    wanted: Wanted,
    temperature: Annotated[float, typer.Option(help="The lower, the more of the best model.", min=1e-6)] = 5.0,
    objective: Objective = [],  # noqa: B006
    memory: Memory = "",
    force: Force = False,
) -> None:
    """Average MODELS with weights by how well each does on a few examples (LM-Cocktail)."""
    from mergecore_search.mixing import cocktail_weights, losses_of_each
    from mergecore_search.objectives import total
    from mergecore_search.reports import report_weights
    from mergecore_search.setup import linear, prepare

    models, out = split(models)
    setup = prepare(out, wanted, objective, memory, force)
    setup.check(linear(models, [1.0] * len(models)))
    losses = losses_of_each(setup, models)
    weights = cocktail_weights([total(row) for row in losses], temperature)
    report_weights(setup, models, losses, weights)
    setup.merge(linear(models, weights))


def split(paths: list[Path]) -> tuple[list[Path], Path]:
    """Models and the folder to make, from the arguments of a command."""
    if len(paths) < 3:
        raise InputError("give two models or more and then the folder to make: MODEL MODEL OUT")
    return paths[:-1], paths[-1]


def cores(workers: int) -> int:
    """Threads for each of several candidates at a time."""
    from mergecore.running.runner import available_cores

    return max(1, available_cores() // workers)
