"""Measure what it costs to plan merges of today's models. Their checkpoints have only headers, so they need no disk."""

from __future__ import annotations

import argparse
import json
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
COUNTS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)

MODULE = "import sys; sys.path[0] = sys.argv.pop(1); "
COMMANDS = {
    "plan": f"{MODULE} import mergecore; mergecore.plan(sys.argv[1]).close()",
    "mergecore plan": f"{MODULE} sys.argv.insert(1, 'plan'); from mergecore.cli.app import main; main()",
}
"""What is measured: the plan alone, and the command, which also merges samples for a second to estimate the time."""


@dataclass(frozen=True)
class Case:
    """A recipe of two models that have the same headers."""

    name: str
    tensors: int
    recipe: Path


@dataclass(frozen=True)
class Run:
    """One measured plan: CPU seconds above a tiny plan, and peak resident bytes. `failed` has the last line printed."""

    case: str
    tensors: int
    code: str
    command: str
    cpu: float
    peak_rss: int
    failed: str


def _case(name: str, stored: Stored, slices: int = 0) -> Case:
    folder = WORK / "headers" / name.replace(" ", "-")
    models = [str(write_headers(folder / letter, stored)) for letter in "ab"]
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


def _cases(growth: bool) -> Iterator[Case]:
    yield _case(TINY, tiny())
    if growth:
        for count in COUNTS:
            yield _case(f"{count} tensors", numbered(count))
        return
    for name, make in MODELS.items():
        yield _case(name, make())
    yield _case(f"Llama-3.1-405B in {SLICES} slices", llama_405b(), SLICES)


def _measured(checkout: Path, command: str, case: Case) -> Usage:
    return measure([sys.executable, "-c", COMMANDS[command], str(checkout), str(case.recipe)])


def run(codes: dict[str, Path], growth: bool, rounds: int) -> dict[str, Any]:
    """Plan each case with each code alternately, and print one line per run."""
    machine, runs = describe(Path.home()), list[Run]()
    started: dict[tuple[str, str], float] = {}
    for case in _cases(growth):
        for turn in range(rounds):
            for code, checkout in list(codes.items())[:: -1 if turn % 2 else 1]:
                for command in COMMANDS:
                    usage = _measured(checkout, command, case)
                    if case.name == TINY:
                        started[code, command] = min(usage.cpu, started.get((code, command), usage.cpu))
                    cpu = usage.cpu - started[code, command]
                    one = Run(case.name, case.tensors, code, command, cpu, usage.peak_rss, why_failed(usage))
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
            cells.append(f"{cpu:.2f} s, {rss:,.0f} MB{' (refused)' if mine[0]['failed'] else ''}")
        yield f"| {name} | {tensors:,} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table, and save the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--growth", action="store_true", help="one model of 1,000 to 1,000,000 tensors instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of this repository, measured alternately")
    args = parser.parse_args(arguments)
    codes = {"before": args.against, "now": HERE} if args.against else {"now": HERE}
    result = run(codes, args.growth, args.rounds)
    path = RESULTS / ("planning-growth" if args.growth else "planning-models")
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    if args.growth:
        path.with_suffix(".svg").write_text(planning(result))
    print(*table(result), sep="\n")
    print(f"CPU seconds above a plan of two tiny models (medians), and peak resident memory. Saved to {path}.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
