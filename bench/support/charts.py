"""Draw results as SVG without a plotting library: bars of wall time, time over bytes, or planning over tensors."""

from __future__ import annotations

import math
from html import escape
from statistics import median
from typing import Any

from bench.support.competitors import COPY
from bench.support.report import Row, rows

WIDTH, LEFT, RIGHT = 860, 120, 90
COLOURS = {"mergecore": "#0b7a75", "mergekit": "#c8553d", "sd-mecha": "#7d5ba6", "raw-copy": "#8a8f98"}
DASHES = ("none", "6 4", "2 3", "10 3 2 3")  # one per method
STYLE = "font-family='system-ui, sans-serif' font-size='13' fill='#1b1f24'"


def _text(x: float, y: float, words: str, anchor: str = "start", extra: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' {extra}>{escape(words)}</text>"


def _page(height: float, title: str, parts: list[str], note: str) -> str:
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' {STYLE}>"
    ground = f"<rect width='{WIDTH}' height='{height:.0f}' rx='6' fill='white'/>"
    heading = _text(20, 28, title, extra="font-size='16' font-weight='600'")
    footing = _text(20, height - 14, note, extra="style='fill:#667'")
    return "\n".join([head, ground, heading, footing, *parts, "</svg>", ""])


def _note(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores; torch {machine['torch']}; {machine['date'][:10]}"


def bars(result: dict[str, Any]) -> str:
    """Draw the wall time of each tool with one group of bars per merge. Scales differ, because TIES is far slower."""
    groups: dict[str, list[Row]] = {}
    for row in rows(result):
        name = "start-up (tiny model)" if row.shape == "tiny" else f"{row.method}, {row.shape}"
        if row.wall:
            groups.setdefault(name, []).append(row)
    parts, y = [], 56.0
    for name, members in groups.items():
        longest = max(row.wall.middle for row in members if row.wall)
        parts.append(_text(20, y + 10, name, extra="font-weight='600'"))
        y += 20
        for row in members:
            assert row.wall
            length = max(2.0, (WIDTH - LEFT - RIGHT) * row.wall.middle / longest)
            parts.append(_text(LEFT - 8, y + 14, row.tool, "end"))
            color = COLOURS.get(row.tool, "#444")
            parts.append(f"<rect x='{LEFT}' y='{y:.1f}' width='{length:.1f}' height='18' rx='2' fill='{color}'/>")
            parts.append(_text(LEFT + length + 6, y + 14, f"{row.wall.middle:.2f} s"))
            y += 22
        y += 16
    return _page(y + 30, "Wall time of a merge (shorter is better)", parts, _note(result))


def growth(result: dict[str, Any]) -> str:
    """Draw seconds over gigabytes read and written, with a line per tool and method, and only one for the raw copy."""
    lines: dict[tuple[str, str], list[Row]] = {}
    measured = [row for row in rows(result) if row.wall and row.shape != "tiny"]
    for row in measured:
        if row.tool != COPY or row.method == measured[0].method:
            lines.setdefault((row.tool, row.method), []).append(row)
    points = [row for line in lines.values() for row in line]
    height, top, bottom, left = 480.0, 56.0, 410.0, 70.0
    most_x = max(row.gigabytes for row in points)
    most_y = max(row.wall.middle for row in points if row.wall)

    def x(gigabytes: float) -> float:
        return left + (WIDTH - left - 190) * gigabytes / most_x

    def y(seconds: float) -> float:
        return bottom - (bottom - top) * seconds / most_y

    parts = [f"<path d='M{left} {top} V{bottom} H{x(most_x):.1f}' fill='none' stroke='#999'/>"]
    marks = [most_y * part for part in (0, 0.25, 0.5, 0.75, 1)]
    parts += [_text(left - 8, y(seconds) + 4, f"{seconds:.1f} s", "end") for seconds in marks]
    parts += [_text(x(g), bottom + 20, f"{g:.1f} GB", "middle") for g in sorted({row.gigabytes for row in points})]
    methods = list(dict.fromkeys(method for _, method in lines))
    for (tool, method), line in lines.items():
        color, dash = COLOURS.get(tool, "#444"), f"stroke-dasharray='{DASHES[methods.index(method) % len(DASHES)]}'"
        spots = [(x(row.gigabytes), y(row.wall.middle)) for row in line if row.wall]
        path = " L".join(f"{a:.1f} {b:.1f}" for a, b in spots)
        parts.append(f"<path d='M{path}' fill='none' stroke='{color}' stroke-width='2' {dash}/>")
        parts += [f"<circle cx='{a:.1f}' cy='{b:.1f}' r='4' fill='{color}'/>" for a, b in spots]
        parts.append(_text(spots[-1][0] + 10, spots[-1][1] + 4, f"{tool}, {method}", extra=f"style='fill:{color}'"))
    return _page(height, "Time by bytes read and written", parts, _note(result))


def planning(result: dict[str, Any]) -> str:
    """Draw CPU seconds of plans over stored tensors, both on logarithmic axes, where linear growth has slope 1."""
    lines: dict[tuple[str, str], dict[int, list[float]]] = {}
    for run in result["runs"]:
        if run["tensors"] >= 1000 and not run["failed"]:
            line = lines.setdefault((run["command"], run["code"]), {})
            line.setdefault(run["tensors"], []).append(max(run["cpu"], 0.01))
    counts = sorted({count for line in lines.values() for count in line})
    most = max(median(values) for line in lines.values() for values in line.values())
    height, top, bottom, left, right = 480.0, 56.0, 410.0, 70.0, 230.0
    decades = math.ceil(math.log10(most / 0.01))

    def x(count: int) -> float:
        return left + (WIDTH - left - right) * math.log(count / counts[0]) / math.log(counts[-1] / counts[0])

    def y(seconds: float) -> float:
        return bottom - (bottom - top) * math.log10(seconds / 0.01) / decades

    parts = [f"<path d='M{left} {top} V{bottom} H{x(counts[-1]):.1f}' fill='none' stroke='#999'/>"]
    marks = [0.01 * 10**power for power in range(decades + 1)]
    parts += [_text(left - 8, y(seconds) + 4, f"{seconds:g} s", "end") for seconds in marks]
    parts += [_text(x(count), bottom + 20, f"{count:,}", "middle") for count in counts]
    for (command, code), line in lines.items():
        color = "#8a8f98" if code == "before" else COLOURS["mergecore"]
        dash = f"stroke-dasharray='{DASHES[command != 'plan']}'"
        spots = [(x(count), y(median(values))) for count, values in line.items()]
        path = " L".join(f"{a:.1f} {b:.1f}" for a, b in spots)
        parts.append(f"<path d='M{path}' fill='none' stroke='{color}' stroke-width='2' {dash}/>")
        parts += [f"<circle cx='{a:.1f}' cy='{b:.1f}' r='4' fill='{color}'/>" for a, b in spots]
        parts.append(_text(spots[-1][0] + 10, spots[-1][1] + 4, f"{command}, {code}", extra=f"style='fill:{color}'"))
    return _page(height, "CPU time of a plan by stored tensors of each of two models", parts, _note(result))
