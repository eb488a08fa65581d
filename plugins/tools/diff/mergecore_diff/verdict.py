"""Turn the numbers of a comparison into sentences about what they mean for a merge."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

from mergecore_diff.differences import Tokens
from mergecore_diff.survey import Survey

RELATED, DISTANT = 0.5, 0.1
"""Cosines between a model's weights and the base's. At `RELATED` or above, they share an origin. Below `DISTANT`, they
are unrelated. Independent trainings end in random directions, whose cosine is about 1 / sqrt(n) for n elements."""

COPY = 0.002
"""Relative change below which a model is a near copy. Rounding all weights to bfloat16 changes them by 0.0017."""

TWINS = 0.05
"""Distance between two fine-tunes, relative to the longer task vector, below which they count as the same."""

ALIGNED = 0.3
"""Cosine of two task vectors at or above which they have much in common. Independent ones are near 0."""

OPPOSED = 0.4
"""Share of opposite signs at or above which the changes work against each other. By chance it is 0.5."""

MARGIN = 0.05
"""How much smaller the mean cosine must be, seen from a model, for that model to count as the base."""

LOW_RANK = 0.125
"""Effective rank, relative to the highest possible one, below which the changes look like an adapter's."""

THRESHOLDS = (
    f"Same origin: the median cosine between the weight matrices of a layer and the base's is at least {RELATED}."
    f" Below {DISTANT} they have nothing in common (independent trainings score about 0). Near copy: a relative change"
    f" below {COPY}, about what rounding to bfloat16 causes. Task vectors: a cosine of {ALIGNED} or more means that"
    f" two models learned similar things. Opposite signs in {OPPOSED:.0%} or more of the elements that both changed"
    " (50% is chance) mean that the changes cancel when averaged."
)


def likeness(survey: Survey, model: int) -> float:
    """Return the median cosine between a model's and the base's matrices, in layers if possible. NaN: no matrices."""
    found = [item for item in survey.measured if model in item.changes and len(item.shape) > 1]
    in_layers = [item for item in found if item.row.layer] or found
    return statistics.median([item.changes[model].cosine for item in in_layers] or [float("nan")])


def is_related(survey: Survey, model: int) -> bool:
    """Return whether a model and the base share an origin."""
    return model not in survey.lineup.strangers and likeness(survey, model) >= RELATED


def ancestor(survey: Survey) -> int | None:
    """Return the common base of the fine-tunes if three or more models are related.

    Seen from their base, fine-tunes lie in nearly orthogonal directions. Seen from a fine-tune, the base and the other
    fine-tunes lie on one side. The base is therefore the model from which the directions to the others have the
    smallest mean cosine, regardless of their lengths. None if the margin to the next model is below `MARGIN`.
    """
    models = [0, *(model for model in survey.lineup.others if is_related(survey, model))]
    if len(models) < 3:
        return None
    (least, found), (second, _), *_ = sorted((_mean_cosine(survey, model, models), model) for model in models)
    return found if second - least >= MARGIN else None


def _mean_cosine(survey: Survey, centre: int, models: list[int]) -> float:
    """Return the mean cosine between the directions from one model to the others, or 1 if all are copies of it."""
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
    """Return sentences on how the models relate to each other, the most important first."""
    return list(_sentences(survey, tokens))


def _sentences(survey: Survey, tokens: list[Tokens | None]) -> Iterator[str]:
    names = labels(survey.lineup.names)
    related = [model for model in survey.lineup.others if is_related(survey, model)]
    for model in range(1, len(names)):
        yield _relation(survey, model, names)
    between = ancestor(survey)
    if between:
        yield f"{names[between]} looks like the common base of the others. Compare with --base {names[between]}."
    if not related and any(likeness(survey, model) < DISTANT for model in survey.lineup.others):
        yield (
            "These models were not trained from the same base. Averages and methods that add up task vectors (ties,"
            " dare, task_arithmetic) will not work. Try passthrough of whole layers, or a mixture of experts."
        )
    for pair in survey.lineup.pairs:
        if set(pair) <= set(related):
            yield from _pair(survey, pair, names)
    different = [names[model] for model, found in enumerate(tokens) if found and not found.same]
    if different and related:
        others = ", ".join(different)
        yield f"{others}: different tokens than {names[0]}. The recipe needs tokenizer: {{source: union}} or base."


def _relation(survey: Survey, model: int, names: list[str]) -> str:
    lineup, name, base = survey.lineup, names[model], names[0]
    if model in lineup.strangers:
        return f"{name} cannot be compared with {base}: {lineup.strangers[model]}."
    change, found = survey.change(model), likeness(survey, model)
    if not change.elements:
        return f"{name} and {base} have no weight with the same name and shape. They are different types of models."
    partly = len(lineup.reshaped.get(model, ())) + len(lineup.lacking.get(model, ())) + len(lineup.added.get(model, ()))
    rest = f" {partly} tensor(s) have no counterpart with the same shape." if partly else ""
    if not math.isfinite(change.dd):
        return f"{name} or {base} contains NaN or infinity, which a merge cannot fix. Find the weights with --weights."
    if not change.changed:
        return f"{name} has the same weights as {base}.{rest}"
    moved = f"its weights differ from {base}'s by {percent(change.relative)}, cosine {found:.3f}"
    if change.relative < COPY:
        return f"{name} is almost a copy of {base}: {moved}.{rest}"
    if found >= RELATED:
        return f"{name} and {base} have the same ancestor: {moved}.{_adapter(survey, model)}{rest}"
    if found >= DISTANT:
        return f"{name} and {base} are distant relatives, after long training or other changes: {moved}.{rest}"
    return f"{name} was not trained from the same base as {base}: {moved}.{rest}"


def _adapter(survey: Survey, model: int) -> str:
    """Return a hint if the changes have a low rank."""
    found = [(item.ranks[model].value, min(item.shape[-2:])) for item in survey.measured if model in item.ranks]
    touched = [(rank, size) for rank, size in found if rank]
    if not touched or statistics.median(rank / size for rank, size in touched) > LOW_RANK * 1.001:
        return ""
    return f" The changes have a low rank ({statistics.median(rank for rank, _ in touched):.0f}), like an adapter's."


def _pair(survey: Survey, pair: tuple[int, int], names: list[str]) -> Iterator[str]:
    clash, (one, other) = survey.clash(pair), (names[model] for model in pair)
    if not (clash.dd and clash.ee):
        return
    if clash.distance < TWINS * max(clash.dd, clash.ee) ** 0.5:
        yield f"{one} and {other} are almost the same fine-tune. Merging them changes little."
    elif clash.cosine >= ALIGNED:
        yield f"{one} and {other} learned similar things (cosine of their changes {clash.cosine:.2f}). Average them."
    else:
        yield (
            f"{one} and {other} changed different things (cosine of their changes {clash.cosine:.2f}). You"
            " can add their task vectors."
        )
    if clash.conflict >= OPPOSED:
        yield (
            f"{one} and {other} oppose each other in {clash.conflict:.0%} of the elements that both changed."
            " Use ties, which elects a sign for each element."
        )


def labels(references: list[str]) -> list[str]:
    """Return short model names: the last part of each path, if those are all different."""
    short = [Path(reference).name or reference for reference in references]
    return short if len(set(short)) == len(short) else references


def percent(share: float) -> str:
    """Format a share as a percentage with two or three digits."""
    if 0 < share < 0.0001:
        return "<0.01%"
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}" if share >= 0.01 else f"{share:.2%}"
