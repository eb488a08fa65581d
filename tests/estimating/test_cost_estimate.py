"""The estimated cost of a run.

Time is tested with a made-up clock that only reading advances, so that the time of a run is known exactly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stage_recipes import linear, ties
from tiny_llamas import write_model
from typer.testing import CliRunner

import mergecore
from mergecore.api import Tile, Work
from mergecore.builtin.safetensors import SafetensorsReader
from mergecore.builtin.threads import ThreadsExecutor
from mergecore.cli.app import app
from mergecore.discovery import Registry
from mergecore.discovery.entry_points import find_plugin, load_plugin
from mergecore.estimating import CostEstimate, cost_estimate, estimate_cost, sampling, trial_run
from mergecore.planning import Plan
from mergecore.running import Options

MANY, FEW = {"num_hidden_layers": 300}, {"num_hidden_layers": 1, "vocab_size": 300_000}
"""Config of models with 2700 tiny tensors, and with two large ones."""


def estimate(plan: Plan, out: Path, memory: int = 2**30, workers: int = 1) -> CostEstimate:
    return estimate_cost(
        plan, Registry(print), ThreadsExecutor(), out, Options(memory, workers), cost_estimate.time.perf_counter()
    )


def recipe(models: list[Path], method: str) -> dict[str, object]:
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models[1:]]
    return {"merge_method": method, "base_model": str(models[0]), "models": entries}


def size(models: list[Path]) -> int:
    return sum(
        job.info.nbytes
        for job in mergecore.plan({"merge_method": "passthrough", "models": [{"model": str(models[0])}]}).jobs
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock on which each read takes 0.2 ms and 1 ns per byte, and nothing else takes long."""
    clock, read = SimpleNamespace(now=0.0), SafetensorsReader.read_bytes

    def slowly(self: SafetensorsReader, name: str, start: int, out: torch.Tensor) -> None:
        clock.now += 2e-4 + 1e-9 * out.nbytes
        read(self, name, start, out)

    def tick() -> float:
        clock.now += 1e-9
        return clock.now

    monkeypatch.setattr(SafetensorsReader, "read_bytes", slowly)
    shown = SimpleNamespace(perf_counter=tick, thread_time=tick, process_time=lambda: 0.0)
    monkeypatch.setattr(cost_estimate, "time", shown)
    monkeypatch.setattr(trial_run, "time", shown)
    return clock


def time_of_run(recipe: Any, out: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the seconds that a run lets its executor work."""
    spent, run = list[float](), ThreadsExecutor.run

    def timed(self: ThreadsExecutor, work: Work) -> None:
        before = clock.now
        run(self, replace(work, workers=1))
        spent.append(clock.now - before)

    monkeypatch.setattr(ThreadsExecutor, "run", timed)
    mergecore.run(recipe, out)
    return spent[0]


def quantized(root: Path) -> dict[str, Any]:
    """A recipe for two models, one of which is stored in fp8."""
    names = [write_model(root / name, 1, dtype="bfloat16", **FEW) for name in "ab"]
    tensors = load_file(names[0] / "model.safetensors")
    head = "lm_head.weight"
    tensors |= {head: tensors[head].to(torch.float8_e4m3fn), f"{head}_scale_inv": torch.ones(1)}
    save_file(tensors, names[0] / "model.safetensors", {"format": "pt"})
    config = json.loads((names[0] / "config.json").read_text())
    (names[0] / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    return linear(*map(str, names))


def models_of(root: Path, **config: Any) -> list[str]:
    return [str(write_model(root / name, seed, **config)) for seed, name in enumerate("abc")]


RECIPES: dict[str, Callable[[Path], Any]] = {
    "many tiny tensors": lambda root: linear(*models_of(root, **MANY)),
    "few large tensors": lambda root: linear(*models_of(root, **FEW)),
    "both": lambda root: linear(*models_of(root, **{**FEW, **MANY})),
    "a measuring pass": lambda root: ties(*models_of(root, **{**FEW, **MANY})),
    "copies": lambda root: {"merge_method": "passthrough", "models": [{"model": models_of(root, **FEW)[0]}]},
    "fp8": quantized,
    "a measuring stage": lambda root: [
        {"name": "one", **ties(*models_of(root, **FEW))}, linear("one", str(root / "a"))
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_time_is_that_of_the_run(
    name: str, tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = RECIPES[name](tmp_path)
    plan = mergecore.plan(made)
    clock.now = 0.0
    seconds = estimate(plan, tmp_path / "out").seconds
    assert clock.now < 2 * cost_estimate.SECONDS and sorted(tmp_path.iterdir()) == sorted(tmp_path.glob("?"))
    assert seconds == pytest.approx(time_of_run(made, tmp_path / "out", clock, monkeypatch), rel=0.2)


def test_methods_whose_time_grows_faster_than_their_tensors(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = load_plugin(find_plugin("methods", "linear"))

    def merge(self: Any, weights: Any, ctx: Any) -> torch.Tensor:
        clock.now += 1e-13 * weights[0].numel() ** 2
        result: torch.Tensor = weights[0]
        return result

    monkeypatch.setattr(method, "tile", Tile.TENSOR)
    monkeypatch.setattr(method, "merge", merge)
    monkeypatch.setattr(sampling, "WHOLE", 2**20)
    made = linear(*models_of(tmp_path, **{**FEW, "vocab_size": 600_000}))
    seconds = estimate(mergecore.plan(made), tmp_path / "out").seconds
    assert seconds == pytest.approx(time_of_run(made, tmp_path / "out", clock, monkeypatch), rel=0.3)


def test_jobs_that_wait_for_memory_do_not_run_at_the_same_time(models: list[Path]) -> None:
    jobs = mergecore.plan(linear(*map(str, models))).jobs
    largest = max(job.memory(2**18) for job in jobs)
    same = [job for job in jobs if job.memory(2**18) == largest]
    for fitting in (1, 3, 9):
        (stratum,) = sampling.stratify(same, [100] * len(same), Options(fitting * largest, workers=4))
        assert stratum.threads == pytest.approx(min(fitting, 4))


def test_no_time_if_the_folder_cannot_be_written(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cost_estimate.tempfile, "TemporaryDirectory", refuse)
    assert estimate(mergecore.plan(recipe(models, "ties")), Path("/out")).seconds is None


def test_observers_are_not_notified_of_trials(models: list[Path], tmp_path: Path) -> None:
    told = list[str]()
    registry = Registry(print)
    registry.notify = lambda event, **_: told.append(event)  # type: ignore[method-assign]
    estimate_cost(mergecore.plan(recipe(models, "ties")), registry, ThreadsExecutor(), tmp_path, Options(2**30, 1), 0.0)
    assert told == []


def test_bytes_are_those_of_the_tensors_twice_where_the_method_measures(models: list[Path], tmp_path: Path) -> None:
    once = estimate(mergecore.plan(recipe(models, "task_arithmetic")), tmp_path / "out")
    twice = estimate(mergecore.plan(recipe(models, "ties")), tmp_path / "out")
    assert once.written == twice.written == size(models)
    assert once.read == 3 * size(models) and twice.read == 2 * once.read


def test_memory_is_bounded_by_the_budget(models: list[Path], tmp_path: Path) -> None:
    plan = mergecore.plan(recipe(models, "ties"))
    assert estimate(plan, tmp_path, 1000, 2).memory == 1000
    assert estimate(plan, tmp_path, workers=2).memory == 2 * estimate(plan, tmp_path).memory


def test_the_command_prints_it(linear_recipe: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["plan", str(linear_recipe), str(tmp_path / "out"), "--json"])
    cost = json.loads(shown.stdout)["estimate"]
    free = os.statvfs(tmp_path)
    assert cost["free"] == pytest.approx(free.f_bavail * free.f_frsize, rel=0.2) and cost["seconds"] > 0
    assert not (tmp_path / "out").exists()
    text = CliRunner().invoke(app, ["plan", str(linear_recipe)]).output
    assert "free" in text and "time" in text
