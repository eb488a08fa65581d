"""The heatmaps of a comparison, each with a value per layer and kind of weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mergecore_diff.report import Report
from mergecore_diff.survey import Measured, Survey
from mergecore_diff.verdict import percent

Value = Callable[[Sequence[Measured]], float]


@dataclass(frozen=True)
class Panel:
    """One heatmap.

    Attributes:
        title: The quantity and the models that it shows.
        values: Values by layer, then kind. NaN if there is no such weight.
        limit: The smallest value drawn in full color.
        text: Function that formats a value.
    """

    title: str
    values: list[list[float]]
    limit: float
    text: Callable[[float], str]

    def strength(self, value: float) -> float:
        """Return the color strength of a value, from -1 to 1."""
        return max(-1.0, min(1.0, value / self.limit)) if self.limit else 0.0


def panels(found: Report) -> list[Panel]:
    """Return the heatmaps of changes, cosines, opposite signs, and ranks. Maps of one quantity share a scale."""
    survey, names = found.survey, found.names
    others, pairs = survey.lineup.others, survey.lineup.pairs
    changes = [_grid(survey, lambda items, m=model: survey.change(m, items).relative) for model in others]  # type: ignore[misc]
    ranks = [_grid(survey, lambda items, m=model: _rank(survey, m, items)) for model in others]  # type: ignore[misc]
    both = [f"{names[one]} and {names[other]}" for one, other in pairs]
    cosines = [_grid(survey, lambda items, p=pair: survey.clash(p, items).cosine) for pair in pairs]  # type: ignore[misc]
    conflicts = [_grid(survey, lambda items, p=pair: survey.clash(p, items).conflict) for pair in pairs]  # type: ignore[misc]
    highest, widest = _highest(changes), _highest(ranks)
    return [
        *(Panel(f"Relative change: {names[m]}", grid, highest, percent) for m, grid in zip(others, changes)),
        *(Panel(f"Cosine of the changes: {pair}", grid, 1.0, "{:.3f}".format) for pair, grid in zip(both, cosines)),
        *(Panel(f"Opposite signs: {pair}", grid, 0.5, percent) for pair, grid in zip(both, conflicts)),
        *(Panel(f"Effective rank: {names[m]}", grid, widest, "{:.1f}".format) for m, grid in zip(others, ranks)),
    ]


def _grid(survey: Survey, value: Value) -> list[list[float]]:
    kinds = list(survey.kinds)
    return [[_at(items, kind, value) for kind in kinds] for items in survey.layers.values()]


def _at(items: Sequence[Measured], kind: str, value: Value) -> float:
    chosen = [item for item in items if item.row.kind == kind]
    return value(chosen) if chosen else math.nan


def _rank(survey: Survey, model: int, items: Sequence[Measured]) -> float:
    rank = survey.rank(model, items)
    return rank.value if rank else math.nan


def _highest(grids: Sequence[list[list[float]]]) -> float:
    """Return the 98th percentile, because single outliers would make everything else pale."""
    values = sorted(value for grid in grids for row in grid for value in row if math.isfinite(value))
    return values[len(values) * 98 // 100] if values else 0.0
