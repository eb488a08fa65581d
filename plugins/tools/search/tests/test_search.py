"""Searches find the known optimum and save their results."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergecore_search.evolution import evolve
from mergecore_search.genomes import read_space
from mergecore_search.history import History, Trial
from mergecore_search.mixing import Mixture, cocktail_weights, greedy
from mergecore_search.objectives import front
from mergecore_search.optimizers import Cma, RandomSearch
from mergecore_search.space import find_space
from opened import open_recipe

import mergecore
from mergecore.discovery.registry import Registry
from mergecore.documents import load_yaml
from mergecore.errors import InputError, RunError


def quadratic(point: Any) -> Trial:
    loss = (point[0] - 0.3) ** 2 + (point[1] - 0.8) ** 2
    return Trial(tuple(point), {}, (loss,), {})


def test_evolution_finds_a_known_optimum_and_a_resumed_one_is_the_same(tmp_path: Path) -> None:
    histories = []
    for name, cut in (("whole", 0), ("cut", 37)):
        for count in filter(None, (cut, 120)):
            history = History(tmp_path / f"{name}.jsonl", {"seed": 3})
            evolve(Cma(2, 3), lambda points: [quadratic(p) for p in points], history, count, 2, lambda trial: None)
            if count == cut:  # like after a kill in the middle of a line
                with open(history.path, "ab") as file:
                    file.write(b'{"point": [0.1')
        histories.append(history)
    assert [trial.point for trial in histories[0].trials] == [trial.point for trial in histories[1].trials]
    assert (tmp_path / "whole.jsonl").read_bytes() == (tmp_path / "cut.jsonl").read_bytes()
    best = min(histories[0].trials, key=lambda trial: trial.losses)
    assert best.point == pytest.approx((0.3, 0.8), abs=0.01)
    with pytest.raises(InputError, match="belongs to another search"):
        History(tmp_path / "whole.jsonl", {"seed": 4})


def test_random_points_depend_on_the_seed() -> None:
    assert RandomSearch(3, 1).ask() == RandomSearch(3, 1).ask() != RandomSearch(3, 2).ask()


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def run(env: Any, *arguments: Any) -> subprocess.CompletedProcess[str]:
    result = env.mergecore(*arguments)
    assert "Traceback" not in result.stderr
    return result


def test_evolve_finds_the_mixture_and_writes_it(target: Any, three: list[Path], tmp_path: Path) -> None:
    recipe = open_recipe(tmp_path, three, "{search: [0, 1]}", "{search: [0, 1]}")
    arguments = ("evolve", recipe, tmp_path / "out", "--with", tmp_path / "eval.yml", "--evaluations", 60)
    result = run(target, *arguments, "--objective", "target/distance")
    assert result.returncode == 0, result.stderr
    best = yaml.safe_load((tmp_path / "out.search" / "best.yml").read_text())
    weights = [item["parameters"]["weight"] for item in best["models"]]
    assert weights == pytest.approx([0.3, 0.7], abs=0.02)
    mergecore.run(tmp_path / "out.search" / "best.yml", tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()
    lines = (tmp_path / "out.search" / "history.tsv").read_text().splitlines()
    assert len(lines) == 61 and (tmp_path / "out.search" / "history.svg").read_text().count("<circle") == 60


def test_a_killed_search_goes_on_to_the_same_end(target: Any, three: list[Path], tmp_path: Path) -> None:
    recipe = open_recipe(tmp_path, three, "{search: [0, 1]}", "{search: [-1, 1]}")
    arguments = ("evolve", recipe, "OUT", "--with", tmp_path / "eval.yml", "--evaluations", 14, "--workers", 2)
    words = ["-m", "mergecore", *map(str, arguments)]
    environment = {"PYTHONPATH": str(target.folder)}
    words[words.index("OUT")] = str(tmp_path / "cut")
    process = subprocess.Popen([sys.executable, *words], env={**os.environ, **environment}, start_new_session=True)
    journal = tmp_path / "cut.search" / "history.jsonl"
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 5):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut").exists()
    for name in ("cut", "whole"):
        words[4] = str(tmp_path / name)
        assert target.python(*words).returncode == 0
    assert journal.read_bytes() == (tmp_path / "whole.search" / "history.jsonl").read_bytes()
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_search_leaves_no_process(
    number: int, status: int, target: Any, three: list[Path], tmp_path: Path
) -> None:
    recipe = open_recipe(tmp_path, three, "{search: [0, 1]}", "{search: [0, 1]}")
    evaluations = yaml.safe_load((tmp_path / "eval.yml").read_text())
    evaluations["evaluate"][0]["parameters"]["slow"] = 10**6
    (tmp_path / "eval.yml").write_text(yaml.safe_dump(evaluations))
    words = ["-m", "mergecore", "evolve", recipe, tmp_path / "out", "--with", tmp_path / "eval.yml", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(target.folder), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, *words], env=environment, start_new_session=True)
    while process.poll() is None and len(list(tmp_path.glob("mergecore-search-*/candidate/config.json"))) < 2:
        time.sleep(0.05)
    os.kill(process.pid, number)
    assert process.wait() == status
    end = time.monotonic() + 60
    while (left := members(process.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    if left:
        os.killpg(process.pid, signal.SIGKILL)
    assert not left and not (tmp_path / "out").exists()


def members(session: int) -> list[str]:
    """Return the command lines of the processes in a session."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                found.append((entry / "cmdline").read_text())
    return found


FATAL = """
import os, signal
from dataclasses import dataclass
from mergecore.api import Evaluator

@dataclass(frozen=True, kw_only=True)
class Fatal(Evaluator):
    'Kills its process, like a kernel that runs out of memory.'
    def evaluate(self, subject):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_worker_ends_the_search_with_a_sentence(target: Any, three: list[Path], tmp_path: Path) -> None:
    target.add("mergecore-fatal", {"evaluators": {"fatal": "mod_fatal:Fatal"}}, {"mod_fatal.py": FATAL})
    recipe = open_recipe(tmp_path, three, "{search: [0, 1]}", "{search: [0, 1]}")
    (tmp_path / "eval.yml").write_text("evaluate:\n- evaluator: fatal\n")
    result = run(target, "evolve", recipe, tmp_path / "out", "--with", tmp_path / "eval.yml", "--workers", 2)
    assert result.returncode == 1 and "was killed" in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


def test_sweep_shows_a_grid_and_merges_its_best(target: Any, three: list[Path], tmp_path: Path) -> None:
    recipe = open_recipe(tmp_path, three, "{search: [0.1, 0.5]}", "{search: [0.5, 0.7, 0.9]}")
    arguments = ("sweep", recipe, tmp_path / "out", "--with", tmp_path / "eval.yml", "--steps", 3)
    result = run(target, *arguments)
    assert result.returncode == 0, result.stderr
    rows = [line.split("\t") for line in (tmp_path / "out.search" / "grid.tsv").read_text().splitlines()[1:]]
    assert len(rows) == 9
    best = min(rows, key=lambda row: float(row[2]))
    assert [float(best[0]), float(best[1])] == pytest.approx([0.3, 0.7])
    assert (tmp_path / "out.search" / "grid.svg").read_text().count("<rect") == 9


def test_a_soup_takes_what_makes_it_no_worse() -> None:
    worth = {(0,): 3.0, (1,): 1.0, (2,): 2.0, (1, 2): 0.9, (1, 2, 0): 1.5}
    alone = [Mixture((index,), (worth[index,],)) for index in range(3)]
    tried = greedy(alone, lambda models: Mixture(models, (worth[models],)))
    assert [one.models for one in tried] == [(1,), (1, 2), (1, 2, 0)]


def test_soups_and_cocktails_end_in_a_merge(target: Any, three: list[Path], tmp_path: Path) -> None:
    open_recipe(tmp_path, three, "1", "1")
    for command in (("soup",), ("soup", "--uniform"), ("cocktail", "--temperature", "0.1")):
        out = tmp_path / "-".join(command)
        result = run(target, *command, *three, out, "--with", tmp_path / "eval.yml")
        assert result.returncode == 0, result.stderr
        assert (out / "model.safetensors").exists() and (tmp_path / f"{out.name}.search" / "best.yml").exists()


def test_cocktail_weights_are_a_softmax() -> None:
    wanted = torch.tensor([-1.0, -2.0, -4.0]).div(2.0).softmax(0).tolist()
    assert cocktail_weights([1.0, 2.0, 4.0], 2.0) == pytest.approx(wanted)


def test_the_front_holds_what_nothing_beats() -> None:
    assert front([(1, 4), (2, 2), (3, 3), (4, 1), (2, 2), (float("inf"), 0)]) == [0, 1, 3, 4]


def test_mergekits_genomes_are_read(three: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "genome.yml"
    base, one, two = three
    genome = {"models": [str(one), str(two)], "merge_method": "ties", "base_model": str(base), "layer_granularity": 1}
    path.write_text(yaml.safe_dump({"genome": genome, "tasks": ["a"]}))
    assert len(read_space(path, Registry(print)).dimensions) == 2 * 2 * 2  # groups, models, parameters
    path.write_text(yaml.safe_dump({"genome": {**genome, "smooth": True, "filters": ["mlp"]}}))
    space = read_space(path, Registry(print))
    assert len(space.dimensions) == 2 * 2 * 2 * 2
    value = space.at([0.25] * 16).value
    assert value["models"][0]["parameters"]["weight"] == [{"filter": "mlp", "value": [0.25] * 2}, {"value": [0.25] * 2}]


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties"])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("form", [{}, {"layer_granularity": 1}, {"layer_granularity": 1, "smooth": True}])
def test_the_base_of_a_genome_need_not_be_a_source(
    three: list[Path], tmp_path: Path, method: str, listed: bool, form: dict[str, Any]
) -> None:
    path, names = tmp_path / "genome.yml", [str(folder) for folder in three]
    genome = {"models": names if listed else names[1:], "merge_method": method, "base_model": names[0], **form}
    path.write_text(yaml.safe_dump({"genome": genome}))
    space = read_space(path, Registry(print))
    plan = mergecore.plan(space.at([0.5] * len(space.dimensions)).value)
    plan.close()
    assert all(job.method is not None for job in plan.jobs)


WRONG = {
    "nothing open": ("merge_method: linear", "has no open values"),
    "one value": ("a: {search: [1]}", "two numbers, or two or more choices"),
    "no list": ("a: {search: 1}", "two numbers, or two or more choices"),
    "bounds the wrong way round": ("a: {search: [2, 1]}", "from a lower to a higher number"),
    "equal bounds": ("a: {search: [1, 1]}", "from a lower to a higher number"),
    "not alone": ("a: {search: [0, 1], filter: b}", "'search' must be the only key"),
    "choices that are no values": ("a: {search: [[1], [2]]}", "must be numbers or text"),
    "infinite": ("a: {search: [0, .inf]}", "from a lower to a higher number"),
    "an unknown method of a genome": ("genome: {models: [a], merge_method: sce}", "must be one of linear"),
    "slerp of a genome": ("genome: {models: [a, b], merge_method: slerp}", "searching for the models of slerp"),
    "an unknown key of a genome": ("genome: {models: [a], merge_method: linear, x: 1}", "unknown key 'x'"),
    "a genome without models": ("genome: {merge_method: linear}", "'models' is missing"),
    "no mapping": ("- 1", "must be a recipe"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_search_files_are_refused_with_file_and_line(name: str, tmp_path: Path) -> None:
    text, said = WRONG[name]
    (tmp_path / "search.yml").write_text(text + "\n")
    with pytest.raises(InputError, match=r"search\.yml:1: ") as caught:
        read_space(tmp_path / "search.yml", Registry(print))
    assert said in str(caught.value)


def test_choices_cover_the_line_evenly() -> None:
    space = find_space(load_yaml("merge_method: {search: [ties, linear, slerp]}\nt: {search: [-1, 3]}")[0])
    assert [space.at([share, 0.5]).value["merge_method"] for share in (0, 0.32, 0.34, 0.99, 1)] == [
        "ties", "ties", "linear", "slerp", "slerp"
    ]  # fmt: skip
    assert space.values([0, 0.75]) == {"merge_method": "ties", "t": 2.0}


BAD_CALLS = {
    "no such objective": ("evolve R OUT --with E --objective targt", "no evaluation is called 'targt'; did you mean"),
    "no such optimizer": ("evolve R OUT --with E --optimizer cmb", "optimizer 'cmb' is not installed"),
    "no evaluations": ("evolve R OUT --with R", "'evaluate' is missing"),
    "no such recipe": ("sweep none.yml OUT --with E", "none.yml: no such file"),
    "one model": ("soup M OUT --with E", "provide at least two models"),
    "a model that is none": ("cocktail M none OUT --with E", "none"),
    "an OUT that is there": ("soup M M M --with E", "already exists"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_wrong_calls_are_refused_before_anything_is_computed(
    name: str, target: Any, three: list[Path], tmp_path: Path
) -> None:
    arguments, said = BAD_CALLS[name]
    recipe = open_recipe(tmp_path, three, "{search: [0, 1]}", "1")
    files = {"R": recipe, "E": tmp_path / "eval.yml", "M": three[0], "OUT": tmp_path / "out"}
    result = run(target, *(files.get(word, word) for word in arguments.split()))
    assert result.returncode == 2 and said in result.stderr, result.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.search").exists()


def test_a_recipe_that_cannot_be_merged_is_refused_at_once(target: Any, three: list[Path], tmp_path: Path) -> None:
    recipe = open_recipe(tmp_path, three, "{search: [0, 1]}", "1", more="parameters: {lamda: 1}\n")
    result = run(target, "evolve", recipe, tmp_path / "out", "--with", tmp_path / "eval.yml")
    assert result.returncode == 2 and "did you mean 'lambda'" in result.stderr
    assert "search.yml:3" in result.stderr


def test_a_full_disk_loses_no_candidate_and_is_named(tmp_path: Path) -> None:
    path, limits = tmp_path / "history.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)

    def search(count: int) -> None:
        evolve(
            Cma(2, 3), lambda points: [quadratic(p) for p in points], History(path, {}), count, 2, lambda trial: None
        )

    search(5)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
    try:
        with pytest.raises(RunError, match=r"history\.jsonl: cannot be written: File too large; .* again to resume"):
            search(9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes().startswith(before)
    search(9)
    assert path.read_bytes().count(b"\n") == 10 and path.read_bytes().startswith(before)
