"""The scores that a search optimizes, as losses (lower is better)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergecore.api import Evaluation, InputError, RunError, Score
from mergecore.tooling import nearest


@dataclass(frozen=True)
class Objectives:
    """Objectives as `(evaluation, score)`. An empty score means the evaluation's first one."""

    wanted: tuple[tuple[str, str], ...]

    def losses(self, scores: Mapping[str, Sequence[Score]]) -> list[float]:
        """Return one loss per objective: the score, negated if higher is better.

        Raises:
            RunError: An evaluation did not return the score.
        """
        return [_loss(name, score, scores[name]) for name, score in self.wanted]

    @property
    def names(self) -> list[str]:
        return [f"{name}/{score}" if score else name for name, score in self.wanted]


def find_objectives(asked: Sequence[str], evaluations: Sequence[Evaluation]) -> Objectives:
    """Parse objectives like ``NAME`` or ``NAME/SCORE``. By default, use the first score of every evaluation.

    Raises:
        InputError: No evaluation has that name.
    """
    names = [evaluation.name for evaluation in evaluations]
    wanted = []
    for text in asked or names:
        name, _, score = text.partition("/")
        if name not in names:
            hint = nearest(name, names) or f"; available: {', '.join(names)}"
            raise InputError(f"--objective {text}: no evaluation is called {name!r}{hint}")
        wanted.append((name, score))
    return Objectives(tuple(wanted))


def _loss(name: str, wanted: str, scores: Sequence[Score]) -> float:
    for score in scores:
        if wanted in ("", score.name):
            loss = -score.value if score.higher_is_better else score.value
            return loss if math.isfinite(loss) else math.inf
    raise RunError(f"evaluation {name!r} returned no score {wanted!r}, only: {', '.join(s.name for s in scores)}")


def total(losses: Sequence[float]) -> float:
    """Combine several objectives into one number, their mean."""
    return math.fsum(losses) / len(losses)


def front(rows: Sequence[Sequence[float]]) -> list[int]:
    """Return the positions of the rows on the Pareto front."""

    def beats(a: Sequence[float], b: Sequence[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    finite = [index for index, row in enumerate(rows) if all(math.isfinite(loss) for loss in row)]
    return [i for i in finite if not any(beats(rows[j], rows[i]) for j in finite)]
