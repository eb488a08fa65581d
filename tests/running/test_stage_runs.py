"""Runs with several stages: kept stages, resuming, memory, and the content of errors, plans, and cards."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import cli_processes
import pytest
import torch
import yaml
from method_recipes import check_loads
from safetensors.torch import load_file, save_file
from stage_recipes import apart, content, linear, ties
from tiny_llamas import write_model
from typer.testing import CliRunner

import mergecore
from mergecore.api import PostProcessor, Tile
from mergecore.builtin.safetensors import SafetensorsReader, SafetensorsWriter
from mergecore.builtin.threads import ThreadsExecutor
from mergecore.cli.app import app
from mergecore.discovery import Registry, postprocessors
from mergecore.discovery.entry_points import find_plugin, load_plugin
from mergecore.errors import InputError, RunError
from mergecore.estimating import estimate_cost
from mergecore.planning.stage_reader import StageReader
from mergecore.running import Options
from mergecore.running.output_folder import OutputFolder

NORM = "model.norm.weight"

pytestmark = pytest.mark.filterwarnings("ignore:.*run the same recipe again to resume")


def change(model: Path, edit: Any) -> None:
    tensors = load_file(model / "model.safetensors")
    edit(tensors)
    save_file(tensors, model / "model.safetensors")


def recipes(models: list[Path]) -> list[dict[str, Any]]:
    base, code, prose = map(str, models)
    return [{"name": "mix", **linear(code, prose)}, {"name": "odd", **ties("mix", code)}, ties(base, "mix", "odd")]


def test_kept_stages_are_what_they_are_alone_and_can_be_made_again(models: list[Path], tmp_path: Path) -> None:
    every = recipes(models)
    out = mergecore.run(every, tmp_path / "out", keep=["mix", "odd"])
    assert content(out) == content(apart(every, tmp_path))
    assert content(tmp_path / "out-mix") == content(tmp_path / "apart-0")
    assert content(tmp_path / "out-odd") == content(tmp_path / "apart-1")
    again = mergecore.run(tmp_path / "out-odd" / "mergecore.lock.json", tmp_path / "again")
    assert content(again) == content(tmp_path / "out-odd")
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out", "out-mix", "out-odd"]
    for folder in (out, tmp_path / "out-odd"):
        check_loads(folder)


def test_nothing_is_replaced_before_all_of_it_is_there(models: list[Path], tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "out-mix").mkdir()
    (tmp_path / "out-mix" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="out-mix: already exists"):
        mergecore.run(recipes(models), tmp_path / "out", keep=["mix"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(
        InputError, match=r"--keep mxi: the recipe has no stage with that name; its stages are: mix, odd"
    ):
        mergecore.run(recipes(models), tmp_path / "out", keep=["mxi"])
    with pytest.raises(InputError, match=r"is or contains .*, which this run reads"):
        mergecore.run(recipes(models), models[1], force=True)


SLOW = """
import time
from dataclasses import dataclass
from mergecore.api import Tile, WeightMethod

@dataclass(frozen=True, kw_only=True)
class Slow(WeightMethod):
    "The mean, after a rest."
    tile = Tile.ELEMENTS

    def merge(self, weights, ctx):
        time.sleep(0.05)
        return sum(weights) / len(weights)
"""


def test_a_killed_run_goes_on_and_another_recipe_of_a_stage_begins_anew(plugin_env, models, tmp_path) -> None:
    plugin_env.add("mergecore-slow", {"methods": {"slow": "mod_slow:Slow"}}, {"mod_slow.py": SLOW})
    stages = recipes(models)
    stages[1] = {"name": "odd", "merge_method": "slow", "models": [{"model": "mix"}, {"model": str(models[0])}]}
    recipe, out = tmp_path / "recipe.yml", tmp_path / "out"

    def start(density: float) -> cli_processes.Run:
        stages[0]["models"][0]["parameters"]["weight"] = density
        recipe.write_text(yaml.safe_dump_all(stages), "utf-8")
        home = tmp_path / f"home-{time.time_ns()}"
        return cli_processes.start(home, "run", recipe, out, "--keep", "odd", plugins=plugin_env.folder)

    def cut_short(density: float) -> None:
        run, journal = start(density), tmp_path / "out.partial" / "journal"
        while not journal.exists() or len(journal.read_text().splitlines()) < 4:
            assert run.process.is_alive(), run.ended()
            time.sleep(0.005)
        assert run.ended(signal.SIGKILL)[0] == -9

    cut_short(0.5)
    status, said = start(0.5).ended()
    assert status == 0 and "resuming: 21 of 21" in said and said.count("resuming: ") == 2, said
    first = content(out), content(tmp_path / "out-odd")
    for folder in (out, tmp_path / "out-odd"):
        os.rename(folder, folder.with_suffix(".first"))
    cut_short(0.5)
    status, said = start(0.6).ended()
    assert status == 0 and "out.partial: starting over because the recipe of stage 'mix' changed" in said, said
    assert content(out) != first[0] and content(tmp_path / "out-odd") != first[1]


def test_where_nan_comes_from_is_told_through_the_stages(models: list[Path], tmp_path: Path) -> None:
    change(models[2], lambda tensors: tensors[NORM].fill_(torch.nan))
    with pytest.raises(RunError) as raised:
        mergecore.run(recipes(models), tmp_path / "out")
    said = str(raised.value)
    assert f"merging {models[0]} and mix and odd results in NaN or infinity; mix and odd already contain some" in said
    assert f"merging {models[1]} and {models[2]} results in NaN or infinity; {models[2]} already contains some" in said
    with pytest.warns(UserWarning, match="contains NaN"):
        mergecore.run(recipes(models), tmp_path / "out", allow_nonfinite=True)


def test_float16_stages_that_overflow_are_named(models: list[Path], tmp_path: Path) -> None:
    for model in models[1:]:
        change(model, lambda tensors: tensors[NORM].fill_(2e5))
    base, code, prose = map(str, models)
    stage = {"name": "half", **linear(code, prose), "dtype": "float16"}
    with pytest.raises(
        RunError, match=r"half already contains some .in that stage, model.norm.weight: .* write dtype: bfloat16"
    ):
        mergecore.run([stage, linear("half", base)], tmp_path / "out")


@pytest.mark.parametrize(("measured", "times"), [(False, 3), (True, 5)])
def test_the_price_is_what_is_read(models, tmp_path, monkeypatch, measured: bool, times: int) -> None:
    base, code, prose = map(str, models)
    mean = {"merge_method": "karcher", "models": [{"model": code}, {"model": prose}]}
    inner = mean if measured else linear(code, prose)
    every = [{"name": "mix", **inner}, {**linear("mix", base), "base_model": "mix"}]
    reads, read = [], SafetensorsReader.read_bytes

    def counted(self, name, start, out):
        reads.append(out.nbytes)
        read(self, name, start, out)

    monkeypatch.setattr(SafetensorsReader, "read_bytes", counted)
    plan = mergecore.plan(every)
    cost = estimate_cost(plan, Registry(print), ThreadsExecutor(), tmp_path, Options(2**30, 1), 0.0)
    plan.close()
    reads.clear()
    mergecore.run(every, tmp_path / "out")
    assert sum(reads) == cost.read == times * plan.bytes_out == plan.bytes_in


def test_what_is_held_is_let_go_of_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that are computed as a whole use no more memory than their jobs have budgeted."""
    monkeypatch.setattr(load_plugin(find_plugin("methods", "karcher")), "tile", Tile.TENSOR)
    names = [str(write_model(tmp_path / name, seed, num_hidden_layers=6)) for seed, name in enumerate("abc")]
    stage = {"merge_method": "karcher", "models": [{"model": name} for name in names[1:]]}
    every = [{"name": "one", **stage}, {"name": "two", **linear("one", names[0])}, ties(names[0], "two", "one")]
    plan = mergecore.plan(every)
    readers = {id(r): r for item in (plan, *plan.stages.values()) for c in item.checkpoints for r in c.readers.values()}
    makers = [reader for reader in readers.values() if hasattr(reader, "release")]
    plan.close()
    assert len(makers) == 2
    largest = max(job.memory(2**18) for job in plan.jobs)
    held, peak, turn = {}, [], threading.Lock()
    hold, release = StageReader._hold, StageReader.release

    def holding(self, name, make):
        value = hold(self, name, make)
        with turn:
            held[id(self), name] = value.nbytes if isinstance(value, torch.Tensor) else 0
            peak.append(sum(held.values()))
        return value

    def releasing(self, name):
        with turn:
            held.pop((id(self), name), None)
        release(self, name)

    monkeypatch.setattr(StageReader, "_hold", holding)
    monkeypatch.setattr(StageReader, "release", releasing)
    mergecore.run(every, tmp_path / "out", memory=largest, workers=4)
    assert held == {} and 0 < max(peak) < largest
    with pytest.raises(InputError, match=r"needs .* for this tensor"):
        mergecore.plan(every, memory=largest // 2)


def test_files_in_every_form(models: list[Path], tmp_path: Path) -> None:
    base, code, prose = map(str, models)
    entries = [f"{{model: {name}, parameters: {{weight: 0.5}}}}" for name in (code, prose)]
    head = f"merge_method: linear\nmodels: [{entries[0]}, {entries[1]}]"
    nested = f"merge_method: linear\n    models: [{entries[0]}, {entries[1]}]"
    tie = f"merge_method: ties\nbase_model: {base}\ndtype: float32"
    texts = {
        "documents": f"name: mix\n{head}\n---\n{tie}\nmodels: [{{model: mix}}]\n",
        "the output first": f"{tie}\nmodels: [{{model: mix}}]\n---\nname: mix\n{head}\n",
        "empty ones": f"---\nname: mix\n{head}\n---\n# nothing\n---\n{tie}\nmodels: [{{model: mix}}]\n---\n",
        "nested": f"{tie}\nmodels:\n- model:\n    {nested}\n",
        "nested, with a name": f"{tie}\nmodels:\n- model: {{model: mix}}\n---\nname: mix\n{head}\n",
        "a head alone": f"---\n{tie}\nmodels:\n- model:\n    {nested}\n",
        "an anchor": f"{tie}\nmodels:\n- model: &s\n    {nested}\n- model: *s\n  parameters: {{weight: 0}}\n",
    }
    results = {}
    for number, (label, text) in enumerate(texts.items()):
        (tmp_path / f"{number}.yml").write_text(text, "utf-8")
        results[label] = content(mergecore.run(tmp_path / f"{number}.yml", tmp_path / f"out-{number}"))
    assert all(item == results["documents"] for item in results.values()), [*results]


def test_the_plan_shows_stages_models_and_what_nobody_uses(models: list[Path], tmp_path: Path) -> None:
    base, code, prose = map(str, models)
    every = [{"name": "mix", **linear(code, prose)}, {"name": "idle", **linear(base, code)}, ties(base, "mix", prose)]
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump_all(every), "utf-8")
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yml"), "--json"])
    view = json.loads(shown.stdout)
    assert [stage["name"] for stage in view["stages"]] == ["mix"] and view["stages"][0]["models"] == [code, prose]
    assert sorted(model["model"] for model in view["models"]) == sorted(map(str, models))
    assert view["notes"] == ["the output does not use recipe 'idle'; --keep idle writes it"]
    assert view["weights"][0]["inputs"][1]["model"] == "mix"
    text = CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yml")]).output
    assert "linear of" in text and "not written" in text


def test_post_processors_are_told_of_stages_and_other_ones_do_not_run_for_them(models, tmp_path, monkeypatch) -> None:
    seen = []

    class Other(PostProcessor):
        def run(self, model):
            seen.append((model.name, [info.stage and info.stage.method for info in model.models]))

    found = postprocessors.load_postprocessors

    def loaded(*args):
        return {**found(*args), "other": Other()}

    monkeypatch.setattr("mergecore.running.runner.load_postprocessors", loaded)
    monkeypatch.setattr(postprocessors, "load_postprocessors", loaded)
    mergecore.run(recipes(models), tmp_path / "out")
    assert seen == [("out", ["linear", "ties", None])]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "from 3 pretrained model(s)" in card and "base_model_relation" not in card
    assert "- the stage odd: `ties` of code (a local folder), mix (a stage of the recipe)\n" in card


def test_a_run_stopped_between_its_outputs_resumes_with_all_of_them(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {name: content(folder) for name, folder in written(recipes(models), tmp_path / "whole")}
    place = OutputFolder._place

    def stopping(self: OutputFolder, force: bool) -> None:
        if self.folder.name == "out":
            raise KeyboardInterrupt
        place(self, force)

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="run the same recipe again to resume"):
        patch.setattr(OutputFolder, "_place", stopping)
        with pytest.raises(KeyboardInterrupt):
            mergecore.run(recipes(models), tmp_path / "out", keep=["mix"])
    assert (tmp_path / "out-mix").exists() and not (tmp_path / "out").exists()
    jobs: list[Any] = []
    monkeypatch.setattr(SafetensorsWriter, "write_bytes", lambda *args: jobs.append(args))
    assert {name: content(folder) for name, folder in written(recipes(models), tmp_path / "out")} == expected
    assert not jobs
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out", "out-mix"]


def written(every: list[dict[str, Any]], out: Path) -> Any:
    return {"out": mergecore.run(every, out, keep=["mix"]), "mix": out.with_name(f"{out.name}-mix")}.items()
