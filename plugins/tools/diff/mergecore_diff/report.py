"""A comparison as plain values, for the tables, the images, and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mergecore_diff.differences import (
    Differing,
    Tokens,
    config_differences,
    dtypes,
    token_differences,
    tokenizer_differences,
)
from mergecore_diff.survey import Measured, Survey
from mergecore_diff.verdict import labels, likeness, verdict


@dataclass(frozen=True)
class Report:
    """Everything that `diff` reports.

    Attributes:
        survey: The measured numbers.
        names: Short model names, with the base first.
        config, tokenizer: Every model's value by key.
        tokens: Each model's tokens compared with the base's.
        verdict: Sentences on what the numbers mean.
    """

    survey: Survey
    names: list[str]
    config: Differing
    tokenizer: Differing
    tokens: list[Tokens | None]
    verdict: list[str]


def report(survey: Survey) -> Report:
    """Build the report on measured models."""
    checkpoints = survey.lineup.checkpoints
    tokens = token_differences(checkpoints)
    return Report(
        survey,
        labels(survey.lineup.names),
        config_differences(checkpoints),
        tokenizer_differences(checkpoints),
        tokens,
        verdict(survey, tokens),
    )


def as_values(found: Report) -> dict[str, Any]:
    """Convert a report to JSON values. Missing numbers are null."""
    survey, lineup = found.survey, found.survey.lineup
    return {
        "base": lineup.names[0],
        "architecture": lineup.architecture.name,
        "models": [_model(found, model) for model in range(len(lineup.names))],
        "verdict": found.verdict,
        "notes": list(lineup.notes),
        "config": found.config,
        "tokenizer": found.tokenizer,
        "all": _numbers(survey, survey.measured, ranked=False),
        "layers": {label: _numbers(survey, items) for label, items in survey.layers.items()},
        "kinds": {label: _numbers(survey, items) for label, items in survey.kinds.items()},
        "outside": {label: _numbers(survey, items) for label, items in survey.outside.items()},
        "weights": {item.row.name: _numbers(survey, [item]) for item in survey.measured},
    }


def _model(found: Report, model: int) -> dict[str, Any]:
    lineup = found.survey.lineup
    tokens = found.tokens[model]
    return {
        "model": lineup.names[model],
        "tensors": len(lineup.checkpoints[model].tensors),
        "bytes": sum(info.nbytes for info in lineup.checkpoints[model].tensors.values()),
        "dtypes": dtypes(lineup.checkpoints[model]),
        "likeness": _plain(likeness(found.survey, model)) if model in lineup.others else None,
        "stranger": lineup.strangers.get(model),
        "lacking": list(lineup.lacking.get(model, ())),
        "added": list(lineup.added.get(model, ())),
        "reshaped": list(lineup.reshaped.get(model, ())),
        "tokens": tokens._asdict() if tokens else None,
    }


def _numbers(survey: Survey, items: Iterable[Measured], ranked: bool = True) -> dict[str, Any]:
    items, names = list(items), survey.lineup.names
    models, pairs = [], []
    for model in survey.lineup.others:
        change, rank = survey.change(model, items), survey.rank(model, items) if ranked else None
        values = {"change": change.relative, "changed": change.share, "cosine": change.cosine}
        ranks = {"rank": _plain(rank.value), "rank_is_exact": rank.exact} if rank else {}
        models.append({"model": names[model], **{key: _plain(value) for key, value in values.items()}, **ranks})
    for pair in survey.lineup.pairs:
        clash = survey.clash(pair, items)
        both = [names[model] for model in pair]
        pairs.append({"models": both, "cosine": _plain(clash.cosine), "opposite_signs": _plain(clash.conflict)})
    return {"models": models, "pairs": pairs}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
