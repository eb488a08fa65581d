"""A local cluster of two nodes produces the same bytes as threads, even if processes are killed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from mergecore_testing import PluginEnv
from ray.cluster_utils import Cluster
from stevedore import ExtensionManager
from tiny_llamas import write_model

import mergecore
from mergecore.errors import InputError, RunError

LAYERS = 6
SLOW = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from mergecore.api import RunError, Tile, WeightMethod, param

@dataclass(frozen=True, kw_only=True)
class Slow(WeightMethod):
    "Record the process, rest, and return the mean."
    tile = Tile.ELEMENTS
    notes: str = param(doc="A folder.")
    rest: float = param(0.0, "Seconds.")
    fails: str = param("", "The tensor to fail on.")

    def merge(self, weights, ctx):
        if ctx.name == self.fails:
            raise RunError(f"{ctx.name}: fails on purpose")
        Path(self.notes, str(os.getpid())).touch()
        time.sleep(self.rest)
        return sum(weights) / len(weights)
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """Return a folder with a method that is installed on the nodes."""
    folder = tmp_path_factory.mktemp("plugins")
    PluginEnv(folder).add("mergecore-slow", {"methods": {"slow": "mod_slow:Slow"}}, {"mod_slow.py": SLOW})
    return folder


@pytest.fixture(scope="module")
def cluster(plugins):
    """Return the address of a cluster with two nodes and two CPUs each. Stop all its processes at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(plugins))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        cluster.add_node(num_cpus=2)
    groups = [group for node in cluster.list_all_nodes() for group in node.all_processes.values()]
    processes = [item.process for group in groups for item in group]
    assert len(processes) > 3
    yield cluster.address
    cluster.shutdown()
    assert all(process.poll() is not None for process in processes)


@pytest.fixture
def models(tmp_path):
    return [write_model(tmp_path / name, seed, num_hidden_layers=LAYERS) for seed, name in enumerate("abc")]


@pytest.fixture
def notes(tmp_path):
    """Return the folder where the slow method records its processes."""
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture
def slow(cluster, plugins, notes, models, tmp_path, monkeypatch):
    """Return the recipe of the slow method."""
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(plugins))
    monkeypatch.syspath_prepend(plugins)
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    entries = [{"model": str(model)} for model in models]
    return {"merge_method": "slow", "models": entries, "parameters": {"notes": str(notes)}}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def waited(condition):
    """Wait up to a minute for a condition and return whether it became true."""
    for _ in range(6000):
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties"])
def test_two_nodes_make_the_same_bytes_as_threads(cluster, method, models, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    monkeypatch.chdir(tmp_path)  # the cluster's processes have other working directories
    recipe = {"merge_method": method, "parameters": {"weight": 0.4}, "models": [{"model": m.name} for m in models[1:]]}
    if method != "linear":
        recipe |= {"base_model": models[0].name, "parameters": {"weight": 0.4, "density": 0.6}}
    mergecore.run(recipe, tmp_path / "threads", shard_bytes=4000)
    mergecore.run(recipe, tmp_path / "ray", executor="ray", shard_bytes=4000)
    assert content(tmp_path / "ray") == content(tmp_path / "threads")
    assert len(content(tmp_path / "ray")) > 3


def test_stages_are_made_on_the_nodes(slow, models, tmp_path):
    mean = {"merge_method": "karcher", "models": [{"model": "stage"}, {"model": str(models[0])}]}
    recipe = [{"name": "stage", **slow}, mean]
    mergecore.run(recipe, tmp_path / "ray", executor="ray")
    mergecore.run(recipe, tmp_path / "threads")
    assert content(tmp_path / "ray") == content(tmp_path / "threads")


def test_a_process_that_is_killed_is_replaced_and_changes_no_byte(slow, notes, tmp_path):
    slow["parameters"]["rest"] = 0.1

    def kill():
        if waited(lambda: len(list(notes.iterdir())) == 2):
            os.kill(int(next(notes.iterdir()).name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = content(mergecore.run(slow, tmp_path / "ray", executor="ray"))
    killer.join()
    assert len(list(notes.iterdir())) == 3
    assert result == content(mergecore.run(slow, tmp_path / "threads"))


@pytest.mark.filterwarnings("ignore:.*run the same recipe again to resume")
def test_an_error_on_a_node_is_the_runs_own(slow, tmp_path):
    slow["parameters"]["fails"] = "model.embed_tokens.weight"  # one of the first tensors
    with pytest.raises(RunError, match=r"^model\.embed_tokens\.weight: fails on purpose$"):
        mergecore.run(slow, tmp_path / "out", executor="ray")


@pytest.mark.slow
def test_a_run_that_is_killed_is_gone_on_with(slow, tmp_path):
    slow["parameters"]["rest"] = 0.05
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(slow))
    expected = content(mergecore.run(tmp_path / "recipe.yml", tmp_path / "threads"))
    command = [sys.executable, "-m", "mergecore", "run", tmp_path / "recipe.yml", tmp_path / "ray", "--executor", "ray"]
    journal = tmp_path / "ray.partial" / "journal"
    run = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        assert waited(lambda: journal.exists() and len(journal.read_text().splitlines()) > 3)
    finally:
        run.kill()
        run.communicate()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "resuming: " in again.stderr, again.stderr
    assert content(tmp_path / "ray") == expected


def test_a_cluster_that_does_not_answer_is_named(models, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    recipe = {"merge_method": "passthrough", "models": [{"model": str(models[0])}]}
    with pytest.raises(InputError, match=r"^RAY_ADDRESS: no Ray cluster answers at '127\.0\.0\.1:1'"):
        mergecore.run(recipe, tmp_path / "out", executor="ray")
