"""The estimated cost of a run in a plan."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny_llamas import write_model
from typer.testing import CliRunner

import mergecore
from mergecore.builtin.threads import ThreadsExecutor
from mergecore.cli.app import app
from mergecore.planning.cost_estimate import estimate_cost


def recipe(models: list[Path], method: str) -> dict[str, object]:
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models[1:]]
    return {"merge_method": method, "base_model": str(models[0]), "models": entries}


def size(models: list[Path]) -> int:
    return sum(
        job.info.nbytes
        for job in mergecore.plan({"merge_method": "passthrough", "models": [{"model": str(models[0])}]}).jobs
    )


def test_bytes_are_those_of_the_tensors_twice_where_the_method_measures(models: list[Path], tmp_path: Path) -> None:
    once = estimate_cost(
        mergecore.plan(recipe(models, "task_arithmetic")), ThreadsExecutor(), tmp_path / "out", 2**30, 1
    )
    twice = estimate_cost(mergecore.plan(recipe(models, "ties")), ThreadsExecutor(), tmp_path / "out", 2**30, 1)
    assert once.written == twice.written == size(models)
    assert once.read == 3 * size(models) and twice.read == 2 * once.read
    assert list(tmp_path.glob("out*")) == []


def test_time_grows_with_what_there_is_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock in this test advances by one second per batch of jobs."""
    ticks = iter(range(1000))
    monkeypatch.setattr("mergecore.planning.cost_estimate.time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr("mergecore.planning.cost_estimate.SECONDS", 0.5)
    model = write_model(tmp_path / "deep", 1, num_hidden_layers=40)
    plan = mergecore.plan({"merge_method": "passthrough", "models": [{"model": str(model)}]})
    cost = estimate_cost(plan, ThreadsExecutor(), tmp_path, 2**30, 1)
    assert cost.seconds is not None and cost.seconds > 40 * 9 / 2 / 3  # jobs / batch, with tolerance


def test_memory_is_bounded_by_the_budget(models: list[Path], tmp_path: Path) -> None:
    plan = mergecore.plan(recipe(models, "ties"))
    assert estimate_cost(plan, ThreadsExecutor(), tmp_path, 1000, 2).memory == 1000
    assert (
        estimate_cost(plan, ThreadsExecutor(), tmp_path, 2**30, 2).memory
        == 2 * estimate_cost(plan, ThreadsExecutor(), tmp_path, 2**30, 1).memory
    )


def test_the_command_prints_it(linear_recipe: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["plan", str(linear_recipe), str(tmp_path / "out"), "--json"])
    cost = json.loads(shown.stdout)["estimate"]
    free = os.statvfs(tmp_path)
    assert cost["free"] == pytest.approx(free.f_bavail * free.f_frsize, rel=0.2) and cost["seconds"] > 0
    assert not (tmp_path / "out").exists()
    text = CliRunner().invoke(app, ["plan", str(linear_recipe)]).output
    assert "free" in text and "time" in text
