"""The start and end of every search: check evaluations and models first, and write the best merge last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mergecore.api import Evaluation, InputError, RunError
from mergecore.tooling import (
    Listener,
    Options,
    OutputFolder,
    Place,
    Progress,
    Registry,
    check_unchanged,
    load_evaluations,
    make_plan,
    run_plan,
    say,
    warn,
    write_whole,
)
from mergecore_search.candidates import recipe_of
from mergecore_search.objectives import Objectives, find_objectives


@dataclass(frozen=True)
class Setup:
    """The plugins, evaluations, objectives, and output folder of a search, and the options of its final run."""

    registry: Registry
    evaluations: tuple[Evaluation, ...]
    objectives: Objectives
    out: Path
    options: Options
    stamps: dict[Path, Any] = field(default_factory=dict)
    """Stamps of the models' files when the search began."""

    @property
    def memory(self) -> int:
        """Memory budget in bytes."""
        return self.options.memory

    @property
    def report(self) -> Path:
        """Folder for everything that a search writes besides the merged model."""
        return self.out.with_name(f"{self.out.name}.search")

    def check(self, place: Place) -> None:
        """Plan a recipe and check OUT, so that any error is reported before computing anything."""
        plan = make_plan(recipe_of(place), self.registry, self.memory)
        try:
            self.stamps.update(plan.stamps)
            reads = [*plan.reads, *self.options.reads]
            OutputFolder(self.out).check(reads, plan.bytes_out, self.options.force)
        finally:
            plan.close()

    def merge(self, place: Place) -> None:
        """Write a recipe to the report folder, and its merge to OUT. All candidates must have had the same models."""
        check_unchanged(self.stamps)
        recipe = recipe_of(place)
        self.write("best.yml", recipe.text)
        plan = make_plan(recipe, self.registry, self.memory)
        try:
            with Progress(plan.bytes_out, quiet=True) as progress:
                listener = Listener(warn, progress.advance, progress.resume, tell=say)
                run_plan(plan, self.out, self.registry, self.options, listener)
        finally:
            plan.close()
        say(f"wrote {self.out}; see {self.report} for the recipe, table, and plot")

    def make_report(self) -> Path:
        """Create the report folder, and return it.

        Raises:
            RunError: It cannot be created.
        """
        try:
            self.report.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.report}: cannot create the folder: {error.strerror}") from None
        return self.report

    def write(self, name: str, text: str) -> None:
        """Write a file to the report folder."""
        write_whole(self.make_report() / name, text)


@contextmanager
def prepare(out: Path, wanted: Path, objective: Sequence[str], options: Options) -> Iterator[Setup]:
    """Check everything that can be checked before loading a model. Hold the run lock of the report folder.

    Raises:
        InputError: OUT exists, another search is writing there, or an evaluation or an objective is invalid.
    """
    if out.exists() and not options.force:
        raise InputError(f"{out}: already exists; use another folder, or --force to replace it")
    registry = Registry(warn)
    evaluations = load_evaluations(wanted, registry)
    options = replace(options, reads=(wanted, *_files(evaluations)))
    setup = Setup(registry, evaluations, find_objectives(objective, evaluations), out, options)
    with OutputFolder(setup.report).hold():
        yield setup


def _files(evaluations: Sequence[Evaluation]) -> Iterator[Path]:
    for value in (value for item in evaluations for value in vars(item.evaluator).values()):
        yield from (part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, Path))


def linear(models: Sequence[Path], weights: Sequence[float]) -> Place:
    """Return the recipe of a weighted mean of models."""
    listed: list[Mapping[str, Any]] = [
        {"model": str(model), "parameters": {"weight": weight}} for model, weight in zip(models, weights, strict=True)
    ]
    return Place({"merge_method": "linear", "models": listed})


def as_yaml(value: Any) -> str:
    """Dump plain values as YAML, keeping their order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
