"""What the numbers mean for a merge, in words."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

from mergecore_diff.differences import Tokens
from mergecore_diff.survey import Survey

RELATED, DISTANT = 0.5, 0.1
"""Cosines between a model's weights and the base's: from the first on the two come from one training; below the second
they do not. Trainings that began apart give directions at random, whose cosine is about 1 / sqrt(n) for n elements."""

COPY = 0.002
"""Relative change of a near copy: to round all weights to bfloat16 changes them by 0.0017."""

TWINS = 0.05
"""Distance of two fine-tunes, relative to the longer task vector, below which they are one."""

ALIGNED = 0.3
"""Cosine of two task vectors from which on they have much in common; independent ones are near 0."""

OPPOSED = 0.4
"""Share of opposite signs from which on the changes work against each other; by chance it is 0.5."""

MARGIN = 0.05
"""By how much the mean cosine must be smaller, seen from the model that is taken for the base."""

LOW_RANK = 0.125
"""Effective rank, relative to the highest possible one, below which the changes look like an adapter's."""

THRESHOLDS = (
    f"Same origin: the median cosine between the weight matrices of a layer and the base's is at least {RELATED};"
    f" below {DISTANT} they have nothing in common (independent trainings give about 0). Near copy: a relative change"
    f" below {COPY}, which is what rounding to bfloat16 does. Task vectors: a cosine of {ALIGNED} or more means that"
    f" two models learnt much of the same; opposite signs in {OPPOSED:.0%} or more of what both changed (50% is"
    " chance) mean that averages cancel."
)


def likeness(survey: Survey, model: int) -> float:
    """The median cosine between a model's matrices and the base's; in the layers, where it has some. NaN: no matrix."""
    found = [item for item in survey.measured if model in item.changes and len(item.shape) > 1]
    in_layers = [item for item in found if item.row.layer] or found
    return statistics.median([item.changes[model].cosine for item in in_layers] or [float("nan")])


def is_related(survey: Survey, model: int) -> bool:
    """Whether a model and the base come from one training."""
    return model not in survey.lineup.strangers and likeness(survey, model) >= RELATED


def ancestor(survey: Survey) -> int | None:
    """The model that lies between all others, where three or more are related: fine-tunes' common base.

    Seen from their base, fine-tunes lie in directions that are nearly at right angles; seen from one of them, the base
    and the others lie on one side. So it is the model from which the others' directions have the smallest mean cosine,
    whatever their lengths. None where no other model is behind by `MARGIN`.
    """
    models = [0, *(model for model in survey.lineup.others if is_related(survey, model))]
    if len(models) < 3:
        return None
    (least, found), (second, _), *_ = sorted((_mean_cosine(survey, model, models), model) for model in models)
    return found if second - least >= MARGIN else None


def _mean_cosine(survey: Survey, centre: int, models: list[int]) -> float:
    """The mean cosine between the directions in which the others lie from one model; 1 where all are its copies."""
    others = [model for model in models if _distance(survey, centre, model)]
    cosines = []
    for one, other in itertools.combinations(others, 2):
        here, there = _distance(survey, centre, one), _distance(survey, centre, other)
        cosines.append((here**2 + there**2 - _distance(survey, one, other) ** 2) / (2 * here * there))
    return statistics.fmean(cosines or [1.0])


def _distance(survey: Survey, one: int, other: int) -> float:
    if one == other:
        return 0.0
    low, high = sorted((one, other))
    return survey.clash((low, high)).distance if low else survey.change(high).dd ** 0.5


def verdict(survey: Survey, tokens: list[Tokens | None]) -> list[str]:
    """Sentences on what the models are to each other, the most important first."""
    return list(_sentences(survey, tokens))


def _sentences(survey: Survey, tokens: list[Tokens | None]) -> Iterator[str]:
    names = labels(survey.lineup.names)
    related = [model for model in survey.lineup.others if is_related(survey, model)]
    for model in range(1, len(names)):
        yield _relation(survey, model, names)
    between = ancestor(survey)
    if between:
        yield f"{names[between]} lies between the others, as a common base does: compare with --base {names[between]}."
    if not related and any(likeness(survey, model) < DISTANT for model in survey.lineup.others):
        yield (
            "These were not trained from the same base: methods that add up task vectors (ties, dare, task_arithmetic)"
            " and averages will not work. What may: passthrough of whole layers, or a mixture of experts."
        )
    for pair in survey.lineup.pairs:
        if set(pair) <= set(related):
            yield from _pair(survey, pair, names)
    different = [names[model] for model, found in enumerate(tokens) if found and not found.same]
    if different and related:
        others = ", ".join(different)
        yield f"The tokens of {others} are not {names[0]}'s: the recipe needs tokenizer: {{source: union}} or base."


def _relation(survey: Survey, model: int, names: list[str]) -> str:
    lineup, name, base = survey.lineup, names[model], names[0]
    if model in lineup.strangers:
        return f"{name} cannot be compared with {base}: {lineup.strangers[model]}."
    change, found = survey.change(model), likeness(survey, model)
    if not change.elements:
        return f"{name} and {base} have no weight of one name and shape: they are models of different kinds."
    partly = len(lineup.reshaped.get(model, ())) + len(lineup.lacking.get(model, ())) + len(lineup.added.get(model, ()))
    rest = f" {partly} tensor(s) have no counterpart of the same shape." if partly else ""
    if not math.isfinite(change.dd):
        return f"{name} or {base} holds NaN or infinity, which no merge mends: look for the weights with --weights."
    if not change.changed:
        return f"{name} has the same weights as {base}.{rest}"
    moved = f"its weights differ by {percent(change.relative)} of {base}'s, cosine {found:.3f}"
    if change.relative < COPY:
        return f"{name} is nearly a copy of {base}: {moved}.{rest}"
    if found >= RELATED:
        return f"{name} and {base} have the same ancestor: {moved}.{_adapter(survey, model)}{rest}"
    if found >= DISTANT:
        return (
            f"{name} and {base} are distant relatives, after long training or a change of their weights: {moved}.{rest}"
        )
    return f"{name} was not trained from the same base as {base}: {moved}.{rest}"


def _adapter(survey: Survey, model: int) -> str:
    """A hint where the changes have a low rank."""
    found = [(item.ranks[model].value, min(item.shape[-2:])) for item in survey.measured if model in item.ranks]
    touched = [(rank, size) for rank, size in found if rank]
    if not touched or statistics.median(rank / size for rank, size in touched) > LOW_RANK * 1.001:
        return ""
    return f" The changes have a low rank ({statistics.median(rank for rank, _ in touched):.0f}), as an adapter's."


def _pair(survey: Survey, pair: tuple[int, int], names: list[str]) -> Iterator[str]:
    clash, (one, other) = survey.clash(pair), (names[model] for model in pair)
    if not (clash.dd and clash.ee):
        return
    if clash.distance < TWINS * max(clash.dd, clash.ee) ** 0.5:
        yield f"{one} and {other} are nearly the same fine-tune: merging them changes little."
    elif clash.cosine >= ALIGNED:
        yield f"{one} and {other} learnt much of the same (cosine of their changes {clash.cosine:.2f}): average them."
    else:
        yield (
            f"{one} and {other} changed different things (cosine of their changes {clash.cosine:.2f}): their task"
            " vectors can be added."
        )
    if clash.conflict >= OPPOSED:
        yield (
            f"{one} and {other} oppose each other in {clash.conflict:.0%} of the elements that both changed:"
            " ties elects a sign for each."
        )


def labels(references: list[str]) -> list[str]:
    """Short names of models: the last part of their paths where those are all different."""
    short = [Path(reference).name or reference for reference in references]
    return short if len(set(short)) == len(short) else references


def percent(share: float) -> str:
    """A share as text with two or three digits."""
    if 0 < share < 0.0001:
        return "<0.01%"
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}" if share >= 0.01 else f"{share:.2%}"
