"""`mergecore evolve`, `soup`, `cocktail`, and `sweep`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergecore.api import InputError, RunError
from mergecore.tooling import Force, Health, HealthCheck, Memory, NoHealth, Out, available_cores, run_options, say

if TYPE_CHECKING:
    from mergecore_search.history import Trial
    from mergecore_search.setup import Setup
    from mergecore_search.space import Space

Wanted = Annotated[Path, typer.Option("--with", help="A YAML file with an 'evaluate' key that defines the scores.")]
Objective = Annotated[
    list[str], typer.Option("--objective", help="EVALUATION or EVALUATION/SCORE. Default: the first score of each.")
]
Models = Annotated[list[Path], typer.Argument(help="Model folders, followed by the output folder.", show_default=False)]
Open = Annotated[Path, typer.Argument(help="A recipe with open values like {search: [0, 1]}.", show_default=False)]
Workers = Annotated[int, typer.Option("--workers", help="Number of candidates to try in parallel processes.", min=1)]
Ray = Annotated[str, typer.Option("--ray", help="Address of a Ray cluster to run on, such as auto.")]


def evolve(
    recipe: Open,
    out: Out,
    wanted: Wanted,
    objective: Objective = [],  # noqa: B006  typer creates a new list for every call
    evaluations: Annotated[int, typer.Option("--evaluations", help="Total number of candidates.", min=1)] = 100,
    optimizer: Annotated[str, typer.Option(help="Name of an installed optimizer.")] = "cma",
    population: Annotated[int, typer.Option(help="Candidates per generation. Default: optimizer's choice.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the search, for reproducibility.", min=0)] = 0,
    workers: Workers = 1,
    ray: Ray = "",
    memory: Memory = "",
    force: Force = False,
    health: Health = HealthCheck.quick,
    no_health: NoHealth = False,
) -> None:
    """Optimize the open values of RECIPE and merge the best candidate into OUT. An interrupted search resumes."""
    from mergecore_search import evolution
    from mergecore_search.genomes import read_space
    from mergecore_search.history import History
    from mergecore_search.reports import report_search, told
    from mergecore_search.setup import as_yaml, prepare
    from mergecore_search.trials import Task, trying

    options = run_options(memory, health=health, no_health=no_health, force=force)
    with prepare(out, wanted, objective, options) as setup:
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
        history = History(setup.make_report() / "history.jsonl", about)
        if history.resumed:
            say(f"{history.path}: resuming with {history.resumed} finished candidates")
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
    steps: Annotated[int, typer.Option(help="Number of values to try per number, including both ends.", min=2)] = 5,
    objective: Objective = [],  # noqa: B006
    workers: Workers = 1,
    ray: Ray = "",
    memory: Memory = "",
    force: Force = False,
    health: Health = HealthCheck.quick,
    no_health: NoHealth = False,
) -> None:
    """Try one or two open values of RECIPE on a grid, draw a heatmap, and merge the best candidate into OUT."""
    from mergecore_search import evolution
    from mergecore_search.genomes import read_space
    from mergecore_search.reports import report_grid, told
    from mergecore_search.setup import prepare
    from mergecore_search.trials import Task, trying

    options = run_options(memory, health=health, no_health=no_health, force=force)
    with prepare(out, wanted, objective, options) as setup:
        space = read_space(recipe, setup.registry)
        if len(space.dimensions) > 2:
            raise space.place.error(
                f"has {len(space.dimensions)} open values, but a sweep takes at most two; use evolve"
            )
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
        raise RunError(f"all {len(trials)} candidates failed, the first with: {trials[0].failed}")
    setup.merge(space.at(best.point))


def soup(
    models: Models,
    wanted: Wanted,
    uniform: Annotated[bool, typer.Option("--uniform", help="Average all models instead of selecting.")] = False,
    objective: Objective = [],  # noqa: B006
    memory: Memory = "",
    force: Force = False,
    health: Health = HealthCheck.quick,
    no_health: NoHealth = False,
) -> None:
    """Average MODELS, adding each one that does not make the mean worse (Model Soups), or average all."""
    from mergecore_search.mixing import Mixture, greedy, losses_of_each, measured_mean
    from mergecore_search.objectives import total
    from mergecore_search.reports import report_mixtures
    from mergecore_search.setup import linear, prepare

    models, out = split(models)
    options = run_options(memory, health=health, no_health=no_health, force=force)
    with prepare(out, wanted, objective, options) as setup:
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
    temperature: Annotated[float, typer.Option(help="Lower values favor the best model more.", min=1e-6)] = 5.0,
    objective: Objective = [],  # noqa: B006
    memory: Memory = "",
    force: Force = False,
    health: Health = HealthCheck.quick,
    no_health: NoHealth = False,
) -> None:
    """Average MODELS, weighted by how well each does on a few examples (LM-Cocktail)."""
    from mergecore_search.mixing import cocktail_weights, losses_of_each
    from mergecore_search.objectives import total
    from mergecore_search.reports import report_weights
    from mergecore_search.setup import linear, prepare

    models, out = split(models)
    options = run_options(memory, health=health, no_health=no_health, force=force)
    with prepare(out, wanted, objective, options) as setup:
        setup.check(linear(models, [1.0] * len(models)))
        losses = losses_of_each(setup, models)
        weights = cocktail_weights([total(row) for row in losses], temperature)
        report_weights(setup, models, losses, weights)
        setup.merge(linear(models, weights))


def split(paths: list[Path]) -> tuple[list[Path], Path]:
    """Split the arguments of a command into the models and the output folder."""
    if len(paths) < 3:
        raise InputError("provide at least two models, then the output folder: MODEL MODEL OUT")
    return paths[:-1], paths[-1]


def cores(workers: int) -> int:
    """Return the number of threads for each of several parallel candidates."""
    return max(1, available_cores() // workers)
