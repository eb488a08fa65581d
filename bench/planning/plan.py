"""Measure plans of today's models, and a run of many tensors. The checkpoints contain only headers."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from bench.planning.headers import write_headers
from bench.planning.shapes import MODELS, Stored, llama_405b, numbered, tiny
from bench.running.checkpoints import WORK
from bench.support.charts import planning
from bench.support.machine import describe
from bench.support.measure import Usage, measure, why_failed

HERE = Path(__file__).parents[2]
RESULTS = HERE / "bench" / "results"
TINY = "tiny"
SLICES = 200
MANY = 45_000
COUNTS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)

OUT = WORK / "out"

MODULE = "import sys; sys.path[0] = sys.argv.pop(1); "
COMMAND = f"{MODULE} from mergecore.cli.app import main; main()"
COMMANDS = {
    "plan": [f"{MODULE} import mergecore; mergecore.plan(sys.argv[1]).close()"],
    "mergecore plan": [COMMAND, "plan"],
    "mergecore run": [COMMAND, "run", "--quiet", "--force", "--no-health"],
}
"""What is measured: plans alone, the command, which also merges samples to estimate the time, and runs."""

MODES = {"models": ("plan", "mergecore plan"), "growth": ("plan", "mergecore plan"), "tensors": ("mergecore run",)}


@dataclass(frozen=True)
class Case:
    """A recipe of two models that have the same headers."""

    name: str
    tensors: int
    recipe: Path


@dataclass(frozen=True)
class Run:
    """One measured process: CPU seconds above a tiny plan, and peak resident bytes. `failed` has its last line."""

    case: str
    tensors: int
    code: str
    command: str
    cpu: float
    wall: float
    peak_rss: int
    failed: str


def _case(name: str, stored: Stored, slices: int = 0) -> Case:
    folder = WORK / "headers" / name.replace(" ", "-")
    # A header of more than 100 MB is not valid, so that a million small tensors need several files.
    shards = {"shard_bytes": 3 * 10**8} if name.endswith("tensors") else {}
    models = [str(write_headers(folder / letter, stored, **shards)) for letter in "ab"]
    recipe: dict[str, Any] = {"merge_method": "linear", "parameters": {"weight": 0.5}}
    if slices:
        recipe["slices"] = [
            {"sources": [{"model": model, "layer_range": [at % 116, at % 116 + 10]} for model in models]}
            for at in range(slices)
        ]
    else:
        recipe["models"] = [{"model": model} for model in models]
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump(recipe))
    return Case(name, len(stored.tensors), path)


def _cases(mode: str) -> Iterator[Case]:
    yield _case(TINY, tiny())
    if mode == "models":
        for name, make in MODELS.items():
            yield _case(name, make())
        yield _case(f"Llama-3.1-405B in {SLICES} slices", llama_405b(), SLICES)
        return
    for count in COUNTS if mode == "growth" else (MANY,):
        yield _case(f"{count} tensors", numbered(count))


def _measured(checkout: Path, command: str, case: Case) -> Usage:
    code, *arguments = COMMANDS[command]
    out = [str(OUT)] if command != "plan" else []
    usage = measure([sys.executable, "-c", code, str(checkout), *arguments, str(case.recipe), *out])
    shutil.rmtree(OUT, ignore_errors=True)
    return usage


def run(codes: dict[str, Path], mode: str, rounds: int) -> dict[str, Any]:
    """Plan each case with each code alternately, and print one line per run."""
    WORK.mkdir(exist_ok=True)
    machine, runs = describe(WORK), list[Run]()
    started: dict[tuple[str, str], float] = {}
    for case in _cases(mode):
        for turn in range(rounds):
            for code, checkout in list(codes.items())[:: -1 if turn % 2 else 1]:
                for command in MODES[mode]:
                    usage = _measured(checkout, command, case)
                    if case.name == TINY:
                        started[code, command] = min(usage.cpu, started.get((code, command), usage.cpu))
                    cpu = usage.cpu - started[code, command]
                    costs = (cpu, usage.wall, usage.peak_rss)
                    one = Run(case.name, case.tensors, code, command, *costs, why_failed(usage))
                    print(f"  {case.name}, {code}, {command}: {cpu:.2f} s, {one.failed}", flush=True)
                    runs.append(one)
    return {"name": "planning", "machine": machine, "runs": [asdict(one) for one in runs]}


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table in Markdown, with the medians of each case."""
    runs = result["runs"]
    columns = list(dict.fromkeys((one["command"], one["code"]) for one in runs))
    yield f"| two models | stored tensors of each | {' | '.join(f'`{command}`, {code}' for command, code in columns)} |"
    yield "|---" * (len(columns) + 2) + "|"
    for name, tensors in dict.fromkeys((one["case"], one["tensors"]) for one in runs):
        cells = []
        for command, code in columns:
            mine = [one for one in runs if (one["case"], one["command"], one["code"]) == (name, command, code)]
            cpu, rss = median(one["cpu"] for one in mine), max(one["peak_rss"] for one in mine) / 1e6
            each = f" ({cpu / tensors * 1e3:.2f} ms per tensor)" if command == "mergecore run" else ""
            cells.append(f"{cpu:.2f} s{each}, {rss:,.0f} MB{' (refused)' if mine[0]['failed'] else ''}")
        yield f"| {name} | {tensors:,} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table, and save the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=MODES, help="plans of models, plans of up to 1,000,000 tensors, or a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of this repository, measured alternately")
    args = parser.parse_args(arguments)
    codes = {"before": args.against, "now": HERE} if args.against else {"now": HERE}
    result = run(codes, args.mode, args.rounds)
    path = RESULTS / f"planning-{args.mode}"
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    if args.mode == "growth":
        path.with_suffix(".svg").write_text(planning(result))
    print(*table(result), sep="\n")
    print(f"CPU seconds above a plan of two tiny models (medians), and peak resident memory. Saved to {path}.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
