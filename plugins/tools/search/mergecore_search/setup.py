"""What every search begins and ends with: its evaluations and models checked first, its best merge written last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mergecore.api import Evaluation
from mergecore.cli.console import say, warn
from mergecore.cli.options import size
from mergecore.cli.progress import Progress
from mergecore.discovery.registry import Registry
from mergecore.documents import Place
from mergecore.errors import InputError
from mergecore.planning.planner import make_plan
from mergecore.recipes.evaluations import load_evaluations
from mergecore.running import runner
from mergecore_search.candidates import recipe_of
from mergecore_search.objectives import Objectives, find_objectives


@dataclass(frozen=True)
class Setup:
    """The plugins, the evaluations with what is wanted of them, the memory in bytes, and where the result goes."""

    registry: Registry
    evaluations: tuple[Evaluation, ...]
    objectives: Objectives
    memory: int
    out: Path
    force: bool

    @property
    def report(self) -> Path:
        """The folder of all that a search writes beside the merged model."""
        return self.out.with_name(f"{self.out.name}.search")

    def check(self, place: Place) -> None:
        """Plan a recipe and let go of it again, so that whatever is wrong is said before anything is computed."""
        make_plan(recipe_of(place), self.registry, self.memory).close()

    def merge(self, place: Place) -> None:
        """Write a recipe beside the report, and its merge into OUT."""
        recipe = recipe_of(place)
        self.write("best.yml", recipe.text)
        plan = make_plan(recipe, self.registry, self.memory)
        try:
            options = runner.Options(self.memory, runner.available_cores(), force=self.force)
            with Progress(plan.bytes_out, quiet=True) as progress:
                listener = runner.Listener(warn, progress.advance, progress.resume, tell=say)
                runner.run_plan(plan, self.out, self.registry, options, listener)
        finally:
            plan.close()
        say(f"{self.out}: merged; {self.report}: recipe, table and plot")

    def write(self, name: str, text: str) -> None:
        """Put a file into the report."""
        self.report.mkdir(parents=True, exist_ok=True)
        (self.report / name).write_text(text, "utf-8")


def prepare(out: Path, wanted: Path, objective: Sequence[str], memory: str, force: bool) -> Setup:
    """Look at everything that can be wrong before a model is loaded.

    Raises:
        InputError: OUT exists, or an evaluation or an objective is wrong.
    """
    if out.exists() and not force:
        raise InputError(f"{out}: exists already; name another folder, or replace it with --force")
    registry = Registry(warn)
    evaluations = load_evaluations(wanted, registry)
    budget = size(memory, "--memory") if memory else runner.spare_memory()
    return Setup(registry, evaluations, find_objectives(objective, evaluations), budget, out, force)


def linear(models: Sequence[Path], weights: Sequence[float]) -> Place:
    """The recipe of a weighted mean of models."""
    listed: list[Mapping[str, Any]] = [
        {"model": str(model), "parameters": {"weight": weight}} for model, weight in zip(models, weights, strict=True)
    ]
    return Place({"merge_method": "linear", "models": listed})


def as_yaml(value: Any) -> str:
    """Plain values as YAML in their own order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
