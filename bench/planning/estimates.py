"""Compare the time that `mergecore plan` predicts with the time that `mergecore run` takes, for merges of all sizes.

`python -m bench.planning.estimates [--rounds N] [--only SHAPE,SHAPE]` prints a table and saves it in bench/results/.
Each round runs both commands one after the other. Large and numerous tensors are zeros in sparse files.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from bench.running.checkpoints import INDEX, WORK, lay_out, make_model
from bench.running.recipes import make_merge
from bench.running.shapes import SHAPES, Shape
from bench.support.machine import describe
from bench.support.measure import measure, why_failed

RESULT = Path(__file__).parents[1] / "results" / "estimates.json"
PLUGIN = Path(__file__).with_name("whole_method.py")
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Case:
    """One merge. Sparse inputs contain zeros and use no disk."""

    name: str
    shape: Shape
    method: str
    sparse: bool = False


_LLAMA, _MIXTRAL = "LlamaForCausalLM", "MixtralForCausalLM"
_QUARTER, _ONE, _HUGE = SHAPES["llama-0.25b"], SHAPES["tinyllama-1.1b"], SHAPES["llama-3-70b"]

CASES = (
    Case("1 MB", Shape(_LLAMA, 4, 128, 256, 4, 2, 512), "linear"),
    Case("90k tiny", Shape(_MIXTRAL, 60, 64, 32, 4, 4, 1000, experts=500), "linear", sparse=True),
    Case("tiny copies", Shape(_MIXTRAL, 20, 64, 32, 4, 4, 1000, experts=300), "passthrough", sparse=True),
    Case("quarter billion", _QUARTER, "ties"),
    Case("quarter billion, whole", replace(_QUARTER, layers=4), "sorted_mean"),
    Case("billion", _ONE, "linear"),
    Case("billion, slerp", _ONE, "slerp"),
    Case("20 GB", replace(_HUGE, layers=9), "passthrough", sparse=True),
)


def _make_sparse(folder: Path, shape: Shape) -> Path:
    """Write a checkpoint of zeros that uses no disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    layout = lay_out(shape.tensors(), SHARD_BYTES)
    for number, (header, size) in enumerate(zip(layout.headers, layout.sizes, strict=True)):
        (folder / layout.file(number)).write_bytes(header)
        os.truncate(folder / layout.file(number), size)
    (folder / "config.json").write_text(json.dumps(shape.config()))
    files = {name: layout.file(place.shard) for name, place in layout.places.items()}
    if len(layout.headers) > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def _models(case: Case) -> Iterator[Path]:
    root = WORK / "estimates" / case.name.replace(" ", "-").replace(",", "")
    for number in range(3):
        folder = root / f"model-{number}"
        if case.sparse:
            yield _make_sparse(folder, case.shape)
        else:
            yield make_model(folder, case.shape, root / "model-0" if number else None, 0, SHARD_BYTES)


def _recipe(case: Case) -> Path:
    models = list(_models(case))
    if case.method != "sorted_mean":
        return make_merge(case.method, models, models[0].parent).recipe
    recipe = models[0].parent / f"{case.method}.yml"
    recipe.write_text(yaml.safe_dump({"merge_method": case.method, "models": [{"model": str(m)} for m in models[:2]]}))
    return recipe


def _round(recipe: Path, options: list[str]) -> dict[str, float]:
    """Return the estimate, the time of `plan`, and the time of `run`, in seconds."""
    out = WORK / "out" / "estimated"
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir(parents=True)
    os.sync()
    command = [sys.executable, "-m", "mergecore"]
    started = time.perf_counter()
    planning = [*command, "plan", str(recipe), str(out), "--json", *options]
    planned = subprocess.run(planning, capture_output=True, text=True, check=True)
    took = time.perf_counter() - started
    usage = measure([*command, "run", str(recipe), str(out), "--quiet", "--no-health", *options])
    shutil.rmtree(out.parent)
    if problem := why_failed(usage):
        raise SystemExit(f"{recipe}: {problem}")
    estimate = json.loads(planned.stdout)["estimate"]["seconds"]
    return {"estimate": estimate, "plan": took, "run": usage.wall, "load": os.getloadavg()[0]}


def _row(case: Case, rounds: list[dict[str, float]]) -> dict[str, Any]:
    tensors = case.shape.tensors()
    ratios = [item["estimate"] / item["run"] for item in rounds]
    return {
        "case": case.name,
        "method": case.method,
        "tensors": len(tensors),
        "bytes": 2 * sum(math.prod(dims) for dims in tensors.values()),
        "largest": 2 * max(math.prod(dims) for dims in tensors.values()),
        "sparse": case.sparse,
        "rounds": rounds,
        "ratio": median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="mergecore plan and mergecore run --no-health: medians, and estimate / run (lowest-highest)")
    for head in ("merge", "tensors", "output", "largest tensor", "estimate s", "run s", "estimate / run", "plan s"):
        table.add_column(head, justify="left" if head == "merge" else "right", no_wrap=True)
    for row in rows:
        middle = {key: median(item[key] for item in row["rounds"]) for key in ("estimate", "run", "plan")}
        table.add_row(
            f"{row['method']}{', sparse' if row['sparse'] else ''}", f"{row['tensors']:,}", _size(row["bytes"]),
            _size(row["largest"]), f"{middle['estimate']:.1f}", f"{middle['run']:.1f}",
            f"{row['ratio']:.2f} ({row['lowest']:.2f}-{row['highest']:.2f})", f"{middle['plan']:.1f}",
        )  # fmt: skip
    return table


def main() -> None:
    """Run the cases, print the table, and save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="comma-separated methods or cases; saved results of others are kept")
    args = parser.parse_args()
    wanted = set(args.only.split(",")) if args.only else set()
    machine = describe(WORK.parent)
    rows = {row["case"]: row for row in json.loads(RESULT.read_text())["rows"]} if wanted and RESULT.exists() else {}
    for case in CASES:
        if wanted and not wanted & {case.name, case.method}:
            continue
        recipe, options = _recipe(case), ["--plugin", str(PLUGIN)] if case.method == "sorted_mean" else []
        rows[case.name] = _row(case, [_round(recipe, options) for _ in range(args.rounds)])
        print(json.dumps({key: rows[case.name][key] for key in ("case", "ratio", "lowest", "highest")}), flush=True)
        kept = [rows[item.name] for item in CASES if item.name in rows]
        RESULT.write_text(json.dumps({"machine": machine, "rows": kept}, indent=1) + "\n")
    Console(width=140).print(_table(kept))


if __name__ == "__main__":
    main()
