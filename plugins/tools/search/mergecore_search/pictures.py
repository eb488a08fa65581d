"""SVG plots: the course of a search, and the values of a grid."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #222; } .dim { fill: #666; } line { stroke: #8888; }
.dot { fill: #4477aa; fill-opacity: .55; } .best { fill: none; stroke: #cc3311; stroke-width: 2; }
@media (prefers-color-scheme: dark) { text { fill: #eee; } .dim { fill: #aaa; } }
</style>"""
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 320, 70, 40, 40


def course(losses: Sequence[float], label: str) -> str:
    """Plot every candidate's loss in the order of the trials, with the lowest loss so far as a line."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    high = high if high > low else low + 1.0

    def at(number: int, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - 20) * number / max(1, len(losses) - 1)
        return x, TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)

    parts, path, lowest = _axes(low, high, label, f"{len(losses)} candidates"), "", math.inf
    for number, loss in enumerate(losses):
        if math.isfinite(loss):
            x, y = at(number, loss)
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
            lowest = min(lowest, loss)
        if math.isfinite(lowest):
            x, y = at(number, lowest)
            path += f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f},{y:.1f}"
    if path:
        parts.append(f'<path class="best" d="{path}"/>')
    return _svg(parts, WIDTH, HEIGHT)


def _axes(low: float, high: float, label: str, below: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [f'<text x="{LEFT}" y="22">{html.escape(label)}: each candidate and the lowest so far</text>']
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - TOP)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="dim" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{low + share * (high - low):.4g}</text>'
        )
    parts.append(f'<text class="dim" x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{below}</text>')
    return parts


CELL_WIDTH, CELL_HEIGHT = 76, 34


def heatmap(
    rows: Sequence[Sequence[float]], across: Sequence[str], down: Sequence[str], names: tuple[str, str, str]
) -> str:
    """Plot a grid of losses with the lowest one marked. `names` are those of the columns, the rows, and the loss."""
    finite = [loss for row in rows for loss in row if math.isfinite(loss)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    left = 30 + 8 * max(len(text) for text in (*down, names[1]))
    parts = [f'<text x="10" y="22">{html.escape(names[2])}: darker is lower</text>']
    for column, text in enumerate(across):
        x = left + (column + 0.5) * CELL_WIDTH
        parts.append(f'<text class="dim" x="{x}" y="46" text-anchor="middle">{html.escape(text)}</text>')
    for line, (text, row) in enumerate(zip(down, rows, strict=True)):
        y = 54 + line * CELL_HEIGHT
        parts.append(f'<text class="dim" x="{left - 10}" y="{y + 22}" text-anchor="end">{html.escape(text)}</text>')
        parts += [_cell(left + column * CELL_WIDTH, y, loss, low, high) for column, loss in enumerate(row)]
    height = 54 + len(down) * CELL_HEIGHT + 34
    below = html.escape(f"across: {names[0]}" + (f", down: {names[1]}" if names[1] else ""))
    parts.append(f'<text class="dim" x="10" y="{height - 10}">{below}</text>')
    return _svg(parts, max(left + len(across) * CELL_WIDTH + 20, 20 + 7 * len(below)), height)


def _cell(x: float, y: float, loss: float, low: float, high: float) -> str:
    if not math.isfinite(loss):
        return f'<text class="dim" x="{x + CELL_WIDTH / 2}" y="{y + 22}" text-anchor="middle">failed</text>'
    share = (high - loss) / (high - low) if high > low else 1.0
    color = "#{:02x}{:02x}{:02x}".format(*(round(a + share * (b - a)) for a, b in ((236, 33), (241, 102), (247, 172))))
    mark = ' stroke="#cc3311" stroke-width="2"' if loss == low else ""
    ink = "#fff" if share > 0.55 else "#222"
    middle = x + CELL_WIDTH / 2
    return (
        f'<rect x="{x + 1}" y="{y + 1}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" fill="{color}"{mark}/>'
        f'<text x="{middle}" y="{y + 22}" text-anchor="middle" style="fill:{ink}">{loss:.4g}</text>'
    )


def _svg(parts: Sequence[str], width: float, height: float) -> str:
    sizes = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {sizes} role="img">', STYLE, *parts, "</svg>"]) + "\n"
