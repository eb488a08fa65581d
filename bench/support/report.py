"""Print saved results as a table (`report.py FILE.json`): medians, spread, and ratios within the same round."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.support.competitors import COPY, IMPORT_TORCH, OURS

Runs = list[dict[str, Any]]


@dataclass(frozen=True)
class Spread:
    """Median, minimum, and maximum of values."""

    middle: float
    low: float
    high: float

    def text(self, digits: int = 1) -> str:
        """Return `1.20 (1.18-1.25)`, or only the median if the rounded values are equal."""
        middle, low, high = (f"{value:.{digits}f}" for value in (self.middle, self.low, self.high))
        return middle if low == high else f"{middle} ({low}-{high})"


def spread(values: list[float]) -> Spread | None:
    """Return the spread of values, or None if there are none."""
    return Spread(median(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class Row:
    """One tool on one merge. Memory is in MB (10^6 bytes). Ratios are None if there is nothing to compare with."""

    shape: str
    method: str
    tool: str
    rounds: int
    failed: str
    wall: Spread | None
    safe: Spread | None
    cpu: Spread | None
    rss: float
    anon: float
    rate: float
    gigabytes: float
    over_copy: Spread | None
    over_ours: Spread | None
    differs: float | None


def _pick(runs: Runs, **wanted: str) -> Runs:
    return [run for run in runs if not run["failed"] and all(run[key] == value for key, value in wanted.items())]


def _startup(runs: Runs, tool: str) -> float:
    return float(median([run["wall"] for run in _pick(runs, shape="tiny", tool=tool)] or [0.0]))


def _safe(run: dict[str, Any]) -> float:
    """Return seconds until the output was on disk, or the wall time for older results without this value."""
    return float(run.get("safe", run["wall"]))


def _ratio(upper: Runs, lower: Runs, less: tuple[float, float] = (0.0, 0.0)) -> Spread | None:
    """Return ratios of times until the output is on disk, by round, after subtracting the start-up times in `less`."""
    other = {run["round"]: _safe(run) - less[1] for run in lower}
    return spread([(_safe(run) - less[0]) / other[run["round"]] for run in upper if run["round"] in other])


LEAST = {"bare_anon": "a bare interpreter", "torch_anon": "an interpreter with torch imported"}
"""What memory is compared with, by key. Results from before runs could do without torch have the second one."""


def _least(result: dict[str, Any]) -> str:
    return next(key for key in LEAST if key in result)


def rows(result: dict[str, Any]) -> list[Row]:
    """Return a row for every shape, method, and tool, in the order of the runs."""
    runs: Runs = result["runs"]
    least = result[_least(result)]
    found = []
    for shape, method, tool in dict.fromkeys((run["shape"], run["method"], run["tool"]) for run in runs):
        mine = _pick(runs, shape=shape, method=method, tool=tool)
        failed = [run["failed"] for run in runs if (run["shape"], run["method"], run["tool"]) == (shape, method, tool)]
        wall = spread([run["wall"] for run in mine])
        moved = mine[0]["bytes_moved"] / 1e9 if mine else 0.0
        less = (_startup(runs, tool), _startup(runs, COPY))
        copies, ours = (_pick(runs, shape=shape, method=method, tool=name) for name in (COPY, OURS))
        differs = [run["differs"] for run in mine if run["differs"] is not None]
        found.append(
            Row(
                shape, method, tool, len(mine), next(filter(None, failed), ""), wall,
                spread([_safe(run) for run in mine]),
                spread([run["cpu"] for run in mine]),
                max((run["peak_rss"] / 1e6 for run in mine), default=0.0),
                max((run["peak_anon"] - least.get(tool, 0) for run in mine), default=0) / 1e6,
                moved / wall.middle if wall else 0.0, moved,
                None if shape == "tiny" else _ratio(mine, copies, less),
                _ratio(mine, ours), max(differs, default=None),
            )
        )  # fmt: skip
    return found


def _cells(row: Row) -> list[str]:
    if row.wall is None or row.safe is None or row.cpu is None:
        return [row.tool, "", "[red]failed[/red]"]
    return [
        row.tool,
        str(row.rounds),
        row.wall.text(2),
        row.safe.text(2),
        row.cpu.text(),
        f"{row.rss:.0f}",
        f"{row.anon:.0f}",
        "" if row.shape == "tiny" else f"{row.rate:.2f}",
        row.over_copy.text(2) if row.over_copy else "",
        row.over_ours.text() if row.over_ours else "",
        "" if row.differs is None else f"{row.differs:.1e}",
    ]


def table(result: dict[str, Any]) -> Table:
    """Return the result as a rich table. README.md in this folder explains its columns."""
    machine = result["machine"]
    cores = f"{machine['cores']} cores, {machine['memory_gb']} GB"
    title = f"{result['name']}: {machine['cpu']}, {cores}, {machine['disk']}"
    caption = (
        f"torch {machine['torch']}, load before {machine['load_before']}, {machine['date']}. Median (lowest-highest). "
        f"MB = 10^6 bytes; 'anon' is anonymous memory above {LEAST[_least(result)]} "
        "(all of it for raw-copy and import torch)."
    )
    shown = Table(title=title, caption=caption)
    for head in ("merge", "tool"):
        shown.add_column(head, no_wrap=True)
    for head in (
        "runs",
        "wall s",
        "on disk s",
        "CPU s",
        "RSS MB",
        "anon MB",
        "GB/s",
        "work / copy",
        "time / ours",
        "differs",
    ):
        shown.add_column(head, justify="right", no_wrap=True)
    last = ""
    for row in rows(result):
        merge = "start-up (tiny model)" if row.shape == "tiny" else f"{row.method}, {row.shape}"
        if last and merge != last:
            shown.add_section()
        shown.add_row("" if merge == last else merge, *_cells(row))
        last = merge
    return shown


def show(result: dict[str, Any]) -> None:
    """Print the table, wide enough for all columns even if the output is a file."""
    console = Console(width=max(Console().width, 160))
    console.print(table(result))
    for row in rows(result):
        if row.failed:
            console.print(f"{row.tool} failed ({row.method}, {row.shape}): {row.failed}", markup=False)
    if (above := _startup(result["runs"], OURS) - _startup(result["runs"], IMPORT_TORCH.name)) > 0:
        console.print(f"Start-up: {OURS} on a tiny model takes {above:.2f} s more than `import torch`.")


if __name__ == "__main__":
    show(json.loads(Path(sys.argv[1]).read_text()))
