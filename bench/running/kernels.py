"""Measure whole merges with and without `mergecore-kernels`, alternately: wall time and CPU time."""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from bench.running.checkpoints import WORK, make_checkpoints
from bench.running.recipes import Merge, make_merge
from bench.running.shapes import SHAPES
from bench.support.measure import Usage, measure

SIDES = {"torch": "health,native", "kernels": "health"}
"""What to disable on each side."""


def merged(merge: Merge, disabled: str) -> Usage:
    """Run a merge without some plugins."""
    with tempfile.TemporaryDirectory(dir=WORK / "models") as folder:
        out = Path(folder) / "out"
        command = ["env", f"MERGECORE_DISABLE={disabled}", sys.executable, "-m", "mergecore", "run", str(merge.recipe)]
        usage = measure([*command, str(out), "--quiet"])
        shutil.rmtree(out)
    return usage


def main() -> None:
    """Print a line per method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="linear,slerp,task_arithmetic,ties,dare_ties", help="comma-separated")
    parser.add_argument("--shape", default="tinyllama-1.1b", choices=sorted(SHAPES))
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    checkpoints = make_checkpoints(options.shape)
    print(f"{'method':20}{'torch: wall':>13}{'CPU':>8}{'kernels: wall':>16}{'CPU':>8}{'ratio of CPU':>15}")
    for name in options.methods.split(","):
        merge = make_merge(name, checkpoints, WORK / "recipes")
        found: dict[str, list[Usage]] = {side: [] for side in SIDES}
        for number in range(options.rounds):
            for side in sorted(SIDES, reverse=number % 2 == 0):
                found[side].append(merged(merge, SIDES[side]))
        wall, cpu = ({side: statistics.median(getattr(usage, key) for usage in runs) for side, runs in found.items()}
                     for key in ("wall", "cpu"))  # fmt: skip
        ratios = [one.cpu / other.cpu for one, other in zip(found["torch"], found["kernels"])]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(
            f"{name:20}{wall['torch']:13.1f}{cpu['torch']:8.1f}{wall['kernels']:16.1f}{cpu['kernels']:8.1f}{spread:>20}"
        )


if __name__ == "__main__":
    main()
