"""A run interrupted at any time loses no finished tensor, and resumes to the same bytes."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import cli_processes
import pytest
import torch
import yaml
from mergecore_testing import PluginEnv
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model

from mergecore.running.ownership import MARKER, write_marker

LAYERS = 24
SLOW = """
import time
from dataclasses import dataclass
from mergecore.api import Tile, WeightMethod

@dataclass(frozen=True, kw_only=True)
class Slow(WeightMethod):
    "The mean, after a rest."
    tile = Tile.ELEMENTS

    def merge(self, weights, ctx):
        time.sleep(0.005)
        return sum(weights) / len(weights)
"""


def content(folder: Path) -> dict[str, bytes]:
    """Read every file in a folder except the card and the lock file, which contain paths."""
    left_out = ("README.md", "mergecore.lock.json")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in left_out}


def neighbors(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.glob(f"{out.name}?*"))


class Slowly:
    """Merges on the command line that take about half a second, and the result of an uninterrupted run."""

    def __init__(self, root: Path) -> None:
        self.root, self.plugins = root, root / "plugins"
        self.models = [write_model(root / name, seed, num_hidden_layers=LAYERS) for seed, name in enumerate("ab")]
        self.install("0.1.0")
        self.recipe = self.recipe_of(self.models)
        self.numbers = iter(range(10**6))
        self.start(root / "first").ended()  # wait for the import of torch
        run = self.start(root / "undisturbed")
        assert run.reached(root / "undisturbed.lock")
        started = time.perf_counter()
        assert run.ended()[0] == 0
        self.seconds = time.perf_counter() - started
        self.expected = content(root / "undisturbed")

    def recipe_of(self, models: list[Path]) -> Path:
        path = self.root / f"{'-'.join(model.name for model in models)}.yml"
        recipe = {"merge_method": "slow", "models": [{"model": str(model)} for model in models]}
        path.write_text(yaml.safe_dump(recipe))
        return path

    def install(self, version: str) -> None:
        for old in self.plugins.glob("*.dist-info"):
            shutil.rmtree(old)
        PluginEnv(self.plugins).add(
            "mergecore-slow", {"methods": {"slow": "mod_slow:Slow"}}, {"mod_slow.py": SLOW}, version
        )

    def start(self, out: Path, *options: str, recipe: Path | None = None) -> cli_processes.Run:
        """Start a merge that writes several files."""
        self.home = self.root / f"home-{next(self.numbers)}"
        arguments = ("run", recipe or self.recipe, out, "--shard-size", "40KB", *options)
        return cli_processes.start(self.home, *arguments, plugins=self.plugins)

    def damaged(self) -> Path:
        """A recipe that fails at the last tensors."""
        model = write_model(self.root / "damaged", 3, num_hidden_layers=LAYERS)
        tensors = load_file(model / "model.safetensors")
        tensors["model.norm.weight"][3] = torch.nan
        save_file(tensors, model / "model.safetensors")
        return self.recipe_of([self.models[0], model])

    def cut_short(self, out: Path, number: int, *options: str, wanted: int = 10) -> str:
        """Send a signal once some tensors are finished. Return the output of the run."""
        run = self.start(out, *options)
        journaled = out.parent / f"{out.name}.partial" / "journal"
        assert run.reached(journaled)
        while len(journaled.read_text().splitlines()) <= wanted:
            time.sleep(0.001)
        status, said = run.ended(number)
        assert status == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number], said
        return said


@pytest.fixture(scope="module")
def slowly(tmp_path_factory):
    return Slowly(tmp_path_factory.mktemp("slowly"))


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_run_again_the_result_is_the_same(slowly, kills, tmp_path):
    moments = random.Random(kills)
    resumed = 0
    for number in range(kills):
        out = tmp_path / f"out-{number}"
        run = slowly.start(out)
        assert run.reached(tmp_path / f"out-{number}.lock")
        time.sleep(moments.uniform(0, slowly.seconds))
        status, _ = run.ended(signal.SIGKILL)
        assert status in (-signal.SIGKILL, 0)
        if not out.exists():
            status, said = slowly.start(out).ended()
            assert status == 0, said
            resumed += "resuming: " in said
            assert neighbors(out) == []
        assert content(out) == slowly.expected
    assert resumed >= kills // 3


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped")])
def test_an_interrupt_says_how_to_go_on_and_the_next_run_does(slowly, number, word, tmp_path):
    out = tmp_path / "out"
    said = slowly.cut_short(out, number)
    assert said.splitlines()[-1] == word
    assert f"{out}.partial: has " in said and "run the same recipe again to resume" in said
    assert neighbors(out) == ["out.partial"]
    kept = int(said.partition("partial: has ")[2].split()[0])
    status, said = slowly.start(out).ended()
    assert (status, f"resuming: {kept} of {LAYERS * 9 + 3} tensors are done" in said) == (0, True)
    assert content(out) == slowly.expected and neighbors(out) == []


def test_an_interrupt_before_the_first_tensor_leaves_nothing(slowly, tmp_path):
    run = slowly.start(tmp_path / "out")
    assert run.reached(tmp_path / "out.partial")
    status, said = run.ended(signal.SIGINT)
    assert (status, said.splitlines()[-1]) == (130, "interrupted")
    assert neighbors(tmp_path / "out") == (["out.partial"] if "run the same recipe again" in said else [])


def test_a_new_version_of_the_method_begins_anew_and_says_so(slowly, tmp_path):
    slowly.cut_short(tmp_path / "out", signal.SIGKILL)
    slowly.install("0.2.0")
    try:
        status, said = slowly.start(tmp_path / "out").ended()
    finally:
        slowly.install("0.1.0")
    assert status == 0
    assert "out.partial: starting over because mergecore-slow changed from 0.1.0 to 0.2.0" in said
    assert "resuming" not in said


def test_the_folder_to_replace_stays_whole_until_the_new_one_is_there(slowly, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    write_marker(out / MARKER, ["old.txt"])
    slowly.cut_short(out, signal.SIGKILL, "--force")
    assert sorted(path.name for path in out.iterdir()) == [MARKER, "old.txt"]
    assert slowly.start(out, "--force").ended()[0] == 0
    assert content(out) == slowly.expected


def test_two_runs_into_one_folder_the_second_is_refused(slowly, tmp_path):
    first = slowly.start(tmp_path / "out")
    assert first.reached(tmp_path / "out.partial")
    os.kill(first.process.pid, signal.SIGSTOP)
    status, said = slowly.start(tmp_path / "out", "--quiet").ended()
    os.kill(first.process.pid, signal.SIGCONT)
    assert status == 2
    assert f"out.lock: process {first.process.pid} on {os.uname().nodename} (since 20" in said
    assert first.ended()[0] == 0
    assert content(tmp_path / "out") == slowly.expected


@pytest.mark.parametrize("end", ["success", "failure", "interrupt", "refusal"])
def test_nothing_is_left_open_or_changed_outside_of_the_folder(slowly, end, tmp_path):
    out = tmp_path / "out"
    if end == "refusal":
        out.write_text("a file")
    if end == "interrupt":
        slowly.cut_short(out, signal.SIGINT)
    else:
        status = {"success": 0, "failure": 1, "refusal": 2}[end]
        assert slowly.start(out, recipe=slowly.damaged() if end == "failure" else None).ended()[0] == status
    found = cli_processes.report(slowly.home)
    assert found["open"] == []
    cache = str(slowly.home / "cache")
    changed = [path for path in found["changed"] if path != cache and not path.startswith(f"{cache}/")]
    own = [str(out), f"{out}.partial", f"{out}.lock"]
    strange = [path for path in changed if not any(path == mine or path.startswith(f"{mine}/") for mine in own)]
    assert set(strange) <= {str(tmp_path)}, "only an existing parent folder can be touched"
    assert bool(changed) == (end != "refusal")
