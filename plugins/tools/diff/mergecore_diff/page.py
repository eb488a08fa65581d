"""Render a comparison as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from mergecore.tooling import printable
from mergecore_diff.differences import dtypes
from mergecore_diff.panels import Panel, panels
from mergecore_diff.report import Report
from mergecore_diff.survey import Measured
from mergecore_diff.table import shown
from mergecore_diff.verdict import THRESHOLDS, percent

CELL = (26, 15)
"""Width and height of a heatmap cell in pixels."""

HEADING = """Each row is a layer and each column a kind of weight. Stronger colors mean larger values. All maps of
the same quantity share one scale. Hover over a cell to see its value."""

TERMS = """Relative change: the norm of a model's task vector (its weights minus the base's) relative to the norm of the
base's weights. Cosine: the cosine of the angle between two task vectors, 0 if two models learned unrelated things.
Opposite signs: among the elements that both models changed, the share that moved in opposite directions. Effective
rank: (sum s&#178;)&#178; / sum s&#8308; over the singular values s of a task vector's matrix (estimated if wide)."""


def page(found: Report) -> str:
    """Return the page as HTML."""
    survey, base = found.survey, _text(found.names[0])
    css = files("mergecore_diff").joinpath("page.css").read_text("utf-8")
    listed = "".join(f"<li>{_text(sentence)}</li>" for sentence in found.verdict)
    notes = "".join(f'<p class="quiet">{_text(note)}</p>' for note in survey.lineup.notes)
    parts = [
        f"<h1>{', '.join(map(_text, found.names[:-1]))} and {_text(found.names[-1])}</h1>",
        f'<p class="quiet">{_text(survey.lineup.architecture.name)}, compared with {base}</p>',
        f'<ul class="verdict">{listed}</ul>',
        notes,
        _table("Models", ["", "tensors", "dtypes", "MB"], _models(found)),
        _maps(found),
        _groups(found, "Kinds of weight", survey.kinds),
        _groups(found, "Outside the layers", survey.outside),
        _values(found, "config.json", found.config),
        _values(found, "Tokenizer", found.tokenizer),
        _tokens(found),
        f'<h2>How to read it</h2><p class="quiet">{TERMS}</p><p class="quiet">{_text(THRESHOLDS)}</p>',
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{base}: differences</title><style>\n{css}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _text(value: str) -> str:
    return escape(printable(value))


def _maps(found: Report) -> str:
    if not found.survey.layers:
        return ""
    layers, kinds = list(found.survey.layers), list(found.survey.kinds)
    cards = "".join(
        f'<div class="card"><h3>{_text(panel.title)}</h3>'
        f'<p class="quiet">full color: {escape(panel.text(panel.limit))}</p>'
        f'<div class="scroll">{heatmap(panel, layers, kinds)}</div></div>'
        for panel in panels(found)
    )
    return f'<h2>By layer and kind of weight</h2><p class="quiet">{HEADING}</p><div class="maps">{cards}</div>'


def heatmap(panel: Panel, layers: Sequence[str], kinds: Sequence[str]) -> str:
    """Render a panel as SVG."""
    width, height = CELL
    left = 8 + 6 * max(map(len, layers))
    top = 8 + round(5.9 * max(map(len, kinds)) * math.sin(math.radians(60)))
    right = round(5.9 * max(map(len, kinds)) * math.cos(math.radians(60)))
    cells = []
    for y, (layer, row) in enumerate(zip(layers, panel.values)):
        cells.append(f'<text x="{left - 5}" y="{top + y * height + 11}" text-anchor="end">{_text(layer)}</text>')
        for x, (kind, value) in enumerate(zip(kinds, row)):
            place = f'x="{left + x * width}" y="{top + y * height}" width="{width - 1}" height="{height - 1}"'
            cells.append(_cell(panel, place, f"{layer} {kind}", value))
    for x, kind in enumerate(kinds):
        at = f"{left + x * width + 10} {top - 5}"
        cells.append(f'<text transform="translate({at}) rotate(-60)">{_text(kind)}</text>')
    size = f'width="{left + len(kinds) * width + right}" height="{top + len(layers) * height}"'
    return f'<svg {size} role="img" aria-label="{_text(panel.title)}">{"".join(cells)}</svg>'


def _cell(panel: Panel, place: str, label: str, value: float) -> str:
    if not math.isfinite(value):
        return f'<rect class="none" {place}><title>{_text(label)}: none</title></rect>'
    strength = panel.strength(value)
    sign = " minus" if strength < 0 else ""
    told = f"<title>{_text(label)}: {escape(panel.text(value))}</title>"
    background = f'<rect class="none" {place}/>'
    return f'{background}<rect class="cell{sign}" {place} fill-opacity="{abs(strength):.3f}">{told}</rect>'


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<h2>{_text(title)}</h2><div class="scroll">{table}</div>'


def _models(found: Report) -> list[list[str]]:
    rows = []
    for checkpoint in found.survey.lineup.checkpoints:
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in dtypes(checkpoint).items())
        size = sum(info.nbytes for info in checkpoint.tensors.values()) / 1e6
        rows.append([checkpoint.reference, str(len(checkpoint.tensors)), kinds, f"{size:,.1f}"])
    return rows


def _groups(found: Report, title: str, groups: Mapping[str, Sequence[Measured]]) -> str:
    """Return a table with the changes, ranks, cosines, and opposite signs of groups of weights."""
    survey, names, lineup = found.survey, found.names, found.survey.lineup
    both = [f"{names[one]}, {names[other]}" for one, other in lineup.pairs]
    headings = ["", *(f"{what} {names[model]}" for what in ("change", "rank") for model in lineup.others)]
    headings += [f"{what} {pair}" for what in ("cosine", "opposite") for pair in both]
    rows = []
    for label, items in groups.items():
        ranks = [survey.rank(model, items) for model in lineup.others]
        clashes = [survey.clash(pair, items) for pair in lineup.pairs]
        numbers = [
            *(percent(survey.change(model, items).relative) for model in lineup.others),
            *(f"{rank.value:.1f}" if rank else "" for rank in ranks),
            *(_number(clash.cosine, f"{clash.cosine:.3f}") for clash in clashes),
            *(_number(clash.conflict, f"{clash.conflict:.0%}") for clash in clashes),
        ]
        rows.append([label, *numbers])
    return _table(title, headings, rows)


def _number(value: float, text: str) -> str:
    return "" if math.isnan(value) else text


def _values(found: Report, title: str, values: Mapping[str, Sequence[Any]]) -> str:
    return _table(title, ["", *found.names], [[key, *map(shown, row)] for key, row in values.items()], "words")


def _tokens(found: Report) -> str:
    rows = [[name, str(tokens.own), str(tokens.shared), str(tokens.same_number)]
            for name, tokens in zip(found.names, found.tokens) if tokens and not tokens.same]  # fmt: skip
    return _table("Tokens", ["", "tokens", f"shared with {found.names[0]}", "with the same ID"], rows)
