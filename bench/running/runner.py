"""Run the chosen tools alternately on the same merges and record every run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.running.checkpoints import WORK, make_checkpoints
from bench.running.outputs import Sample, difference, problem, sample
from bench.running.recipes import Merge, make_merge
from bench.support.competitors import COPY, IMPORT_TORCH, OURS, Settings, Tool
from bench.support.machine import describe
from bench.support.measure import bare_baseline, measure, why_failed

OUT = WORK / "out"


@dataclass(frozen=True)
class Plan:
    """The runs: tools x shapes x methods, alternating for `rounds` rounds, each into a new folder in `out`.

    Any other tool whose first round of a method exceeds `slow_seconds` is run only `slow_rounds` times. `cold`
    drops the inputs from the page cache before each run. Otherwise, they are read once to put them into the cache.
    """

    shapes: tuple[str, ...]
    methods: tuple[str, ...]
    tools: tuple[Tool, ...]
    rounds: int
    layers: int | None = None
    slow_seconds: float = 1e9
    slow_rounds: int = 1
    cold: bool = False
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class Run:
    """One run of one tool. `failed` is the reason why it does not count, `differs` its distance from the first tool.

    `safe` is the wall time plus the time until the output was on disk. A tool that has already synced its output
    does not wait again.
    """

    shape: str
    method: str
    tool: str
    round: int
    wall: float
    safe: float
    cpu: float
    peak_rss: int
    peak_anon: int
    bytes_moved: int
    failed: str
    differs: float | None


def _files(merge: Merge) -> Iterator[Path]:
    return (file for folder in merge.inputs for file in folder.glob("*.safetensors"))


def _warm(merge: Merge) -> None:
    for path in _files(merge):
        with open(path, "rb", buffering=0) as file:
            buffer = bytearray(8 << 20)
            while file.readinto(buffer):
                pass


def _chill(merge: Merge) -> None:
    for path in _files(merge):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _clean(folder: Path) -> None:
    """Remove the output and flush the disk, so that no run is slowed down by the previous one."""
    shutil.rmtree(folder, ignore_errors=True)  # tools may keep unfinished work next to the output
    folder.mkdir(parents=True)
    os.sync()


def _sync(folder: Path) -> float:
    """Sync all files in a folder to disk and return the seconds it took."""
    started = time.perf_counter()
    for path in folder.rglob("*"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return time.perf_counter() - started


def _check(merge: Merge, out: Path, tool: Tool, first: Sample | None) -> tuple[str, float | None, Sample | None]:
    """Return what is wrong with the output, its distance from the first tool's output, and its sample."""
    if not tool.merges:
        return "", None, None
    try:
        written = sample(out)
    except (OSError, ValueError, KeyError) as error:
        return f"its output cannot be read: {error}", None, None
    wrong = problem(written, sample(merge.inputs[0]))
    return wrong, None if wrong or first is None else difference(written, first), written


def _race(merge: Merge, shape: str, tools: tuple[Tool, ...], plan: Plan) -> Iterator[Run]:
    """Yield all rounds of one merge, reversing the order of the tools in every other round."""
    if not plan.cold:
        _warm(merge)
    out = OUT / "merged"
    firsts: dict[str, float] = {}
    reference: Sample | None = None
    given_up: set[str] = set()
    for turn in range(plan.rounds):
        # Memory just freed by the previous tool is cheaper than new memory from the host, so alternate who benefits.
        for tool in tools if turn % 2 == 0 else tools[::-1]:
            slow = firsts.get(tool.name, 0.0) > plan.slow_seconds and tool.name not in (OURS, COPY)
            if (slow and turn >= plan.slow_rounds) or tool.name in given_up:
                continue
            _clean(OUT)
            if plan.cold:
                _chill(merge)
            usage = measure(tool.command(merge, out, plan.settings))
            safe = usage.wall + _sync(OUT)
            failed, differs, written = why_failed(usage), None, None
            if not failed:
                failed, differs, written = _check(merge, out, tool, reference)
            if failed:
                given_up.add(tool.name)
            elif reference is None:
                reference = written
            firsts.setdefault(tool.name, usage.wall)
            costs = (usage.wall, safe, usage.cpu, usage.peak_rss, usage.peak_anon)
            yield Run(shape, merge.method, tool.name, turn, *costs, merge.bytes_in + merge.bytes_out, failed, differs)


def run(plan: Plan, name: str) -> dict[str, Any]:
    """Run the plan and print one line per run. The first merge uses a tiny model to measure the start-up time."""
    WORK.mkdir(exist_ok=True)
    machine = describe(WORK)
    if isinstance(load := machine["load_before"], float) and load > 0.5:
        print(f"Note: the machine is busy (load {load}); do not publish results unless it is idle.", flush=True)
    baseline = {tool.name: bare_baseline(tool.python()) for tool in plan.tools if tool.merges}
    runs: list[Run] = []
    for shape in ("tiny", *plan.shapes):
        layers, tools = (None, (IMPORT_TORCH, *plan.tools)) if shape == "tiny" else (plan.layers, plan.tools)
        checkpoints = make_checkpoints(shape, layers=layers)
        label = f"{shape}, layers: {layers}" if layers else shape
        for method in ("linear",) if shape == "tiny" else plan.methods:
            merge = make_merge(method, checkpoints, WORK / "recipes")
            OUT.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(OUT).free < 1.1 * merge.bytes_out:
                raise SystemExit(f"Not enough disk space for the output; run: rm -r {WORK}/models")
            try:
                for one in _race(merge, label, tools, plan):
                    print(f"  {one.shape} {one.method} {one.tool}: {one.failed or f'{one.wall:.2f} s'}", flush=True)
                    runs.append(one)
            except KeyboardInterrupt:
                print(f"Interrupted: skipping the rest of {method}, {label}; press again to stop now.", flush=True)
            _clean(OUT)
    settings = {"memory": plan.settings.memory, "rounds": plan.rounds, "cold": plan.cold, "work": str(WORK.resolve())}
    shown = [asdict(one) for one in runs]
    return {"name": name, "machine": machine, "settings": settings, "bare_anon": baseline, "runs": shown}


def anon_above_bare(result: dict[str, Any]) -> int:
    """Return mergecore's highest peak of anonymous memory above a bare interpreter, in bytes."""
    peaks = [one["peak_anon"] for one in result["runs"] if one["tool"] == OURS and not one["failed"]]
    return max(peaks, default=0) - result["bare_anon"].get(OURS, 0)
