"""Measure mergecore, mergekit, sd-mecha, and a raw copy, and save the results in bench/results/."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from bench.running.recipes import METHODS, find_method
from bench.running.runner import Plan, anon_above_bare, run
from bench.running.shapes import find_shape
from bench.support import charts
from bench.support.competitors import COPY, OURS, Settings, choose
from bench.support.report import show

RESULTS = Path(__file__).parents[1] / "results"
EVERYONE = "mergecore,mergekit,sd-mecha,raw-copy"

# The slow limits keep --quick within 3 minutes and --full within 40 on two cores. A mergekit TIES run takes minutes.
PRESETS = {
    "quick": Plan(("llama-0.25b",), ("linear", "ties"), (), 3, layers=8, slow_seconds=5, slow_rounds=1),
    "full": Plan(
        ("tinyllama-1.1b",),
        ("linear", "slerp", "task_arithmetic", "ties", "passthrough"),
        (),
        rounds=4,
        slow_seconds=40,
        slow_rounds=2,
    ),
    "memory": Plan(("tinyllama-1.1b",), tuple(METHODS), (), rounds=1),
    "growth": Plan(("llama-0.25b", "tinyllama-1.1b", "llama-4b"), ("linear", "ties"), (), rounds=3, cold=True),
}
DEFAULT_TOOLS = {"quick": EVERYONE, "full": EVERYONE, "memory": OURS, "growth": f"{OURS},{COPY}"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    for flag, name, words in (
        ("--quick", "quick", "a small model with linear and ties, within 3 minutes"),
        ("--full", "full", "three 1.1B models with five methods, within 40 minutes"),
        ("--memory-table", "memory", "only mergecore's memory, for every method; exit 1 above --limit"),
        ("--growth", "growth", "time by model size: 0.25B, 1.1B, 4B (40 GB of disk)"),
    ):
        mode.add_argument(flag, dest="mode", action="store_const", const=name, help=words)
    parser.add_argument("--methods", help="comma-separated")
    parser.add_argument("--shape", help="use this shape instead of the mode's shapes")
    parser.add_argument("--layers", type=int, help="keep only this many layers of --shape")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--tools", help=f"comma-separated list from {EVERYONE}")
    parser.add_argument("--memory", default="256MB", help="memory budget of mergecore (256MB)")
    parser.add_argument("--limit", type=float, default=300.0, help="MB above an interpreter for --memory-table (300)")
    parser.add_argument("--cold", action="store_true", help="drop the inputs from the page cache before each run")
    parser.add_argument("--name", help="base name of the result files")
    return parser.parse_args()


def _plan(args: argparse.Namespace) -> Plan:
    plan = PRESETS[args.mode]
    tools = tuple(choose(args.tools or DEFAULT_TOOLS[args.mode]))
    plan = replace(plan, tools=tools, settings=Settings(args.memory), cold=args.cold or plan.cold)
    if args.methods:
        plan = replace(plan, methods=tuple(args.methods.split(",")))
    if args.shape:
        plan = replace(plan, shapes=(args.shape,), layers=args.layers)
    for shape in plan.shapes:  # report unknown names before spending minutes
        find_shape(shape)
    for method in plan.methods:
        find_method(method)
    return replace(plan, rounds=args.rounds) if args.rounds else plan


def main() -> int:
    """Return 0 if all mergecore runs succeeded and, for a memory table, stayed within the limit. Otherwise return 1."""
    args = _arguments()
    plan = _plan(args)
    result = run(plan, args.name or f"{args.mode}-{plan.shapes[-1]}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{result['name']}.json").write_text(json.dumps(result, indent=1) + "\n")
    draw = charts.growth if len(plan.shapes) > 1 else charts.bars
    if any(not one["failed"] and one["shape"] != "tiny" for one in result["runs"]):
        (RESULTS / f"{result['name']}.svg").write_text(draw(result))
    show(result)
    print(f"Saved to {RESULTS / result['name']}.json and .svg")
    ok = not any(one["failed"] for one in result["runs"] if one["tool"] == OURS)
    if args.mode == "memory":
        above = anon_above_bare(result) / 1e6
        ok = ok and above <= args.limit
        verdict = "ok" if ok else "EXCEEDED"
        print(f"Peak above a bare interpreter: {above:.0f} MB; limit {args.limit:.0f} MB: {verdict}.")
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
