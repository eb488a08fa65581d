"""Chooses base, method, dtype and vocabulary for a merge, each with the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mergecore.api import FLOATS, ModelError, read_text
from mergecore.api.files import TORCH_NAMES
from mergecore.discovery.entry_points import listed
from mergecore.errors import InputError
from mergecore_diff.differences import token_differences
from mergecore_diff.lineup import Lineup
from mergecore_diff.survey import Survey
from mergecore_diff.verdict import ALIGNED, OPPOSED, RELATED, ancestor, labels, likeness, percent

CARD_LIMIT = 10**6
"""Bytes that a model's README.md may have to be looked at."""

WITH_BASE = ("ties", "dare_ties", "task_arithmetic", "della", "model_stock", "linear")
OF_TWO = ("slerp", "linear")
OF_MANY = ("linear", "karcher")
"""Methods that fit, the preferred one first."""


@dataclass(frozen=True)
class Choice:
    """A value, the others that would do, and why it is this one."""

    value: str
    options: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Choices:
    """All that a recipe is made of.

    Attributes:
        survey: what was measured, of a sample of layers; its first model is the base, where there is one.
        base: the base model; empty: there is none.
        method, dtype: as recipes write them.
        tokenizer: None: the models have one vocabulary.
    """

    survey: Survey
    base: Choice
    method: Choice
    dtype: Choice
    tokenizer: Choice | None


def sample(lineup: Lineup) -> Lineup:
    """The line-up with the matrices of the first, the middle and the last layer only; with all rows where none has."""
    layers = list(dict.fromkeys(row.layer for row in lineup.rows if row.layer))
    kept = {layers[0], layers[len(layers) // 2], layers[-1]} if layers else {""}
    tensors = lineup.checkpoints[0].tensors
    rows = [row for row in lineup.rows if row.layer in kept and len(tensors[row.tensors[0]].shape) > 1]
    return replace(lineup, rows=tuple(rows) or lineup.rows)


def check_mergeable(survey: Survey) -> None:
    """Refuse models that no method can merge weight by weight.

    Raises:
        InputError: with the reason, and what could be done instead.
    """
    lineup, names = survey.lineup, labels(survey.lineup.names)
    for model in range(1, len(names)):
        both = f"{names[model]} and {names[0]}"
        if model in lineup.strangers:
            raise InputError(f"{both} cannot be merged: {lineup.strangers[model]}")
        if lineup.lacking.get(model) or lineup.added.get(model):
            alone = [*lineup.lacking.get(model, ()), *lineup.added.get(model, ())]
            raise InputError(
                f"{both} do not have the same weights: only one has {alone[0]!r} ({len(alone)} in all);"
                " whole layers can be combined: mergecore stack slices"
            )
        shapes = [name for name in lineup.reshaped.get(model, ()) if name not in tables(lineup)]
        if shapes:
            raise InputError(
                f"{both} differ in the shape of {shapes[0]!r} ({len(shapes)} in all); only equal shapes can be merged"
            )
        found = likeness(survey, model)
        if not found >= RELATED:
            raise InputError(
                f"{both} were not trained from the same base: the median cosine between their weights is {found:.2f},"
                f" of related models at least {RELATED}; averages and task vectors would give noise. Models that only"
                " share their shapes can be put side by side: mergecore moe, or mergecore stack shuffle"
            )


def tables(lineup: Lineup) -> set[str]:
    """The weights with one row a token."""
    base = lineup.checkpoints[0]
    weights = lineup.architecture.weights(base.config, base.reference)
    return {weight.name for weight in weights if weight.vocabulary_axis == 0}


def find_base(survey: Survey) -> Choice:
    """The common base among models, by distance, else by what their cards and configs say.

    With two models and no word of either, there is none.
    """
    names = survey.lineup.names
    options = (*names, "none")
    between = ancestor(survey)
    if between is not None:
        return Choice(names[between], options, "it lies between the others, as a base lies between its fine-tunes")
    parents = [parent for checkpoint in survey.lineup.checkpoints
               for parent in _parents(checkpoint.folder, checkpoint.config.get("_name_or_path"))]  # fmt: skip
    for name, short in zip(names, labels(names)):
        if any(parent == name or parent.rpartition("/")[2] == short for parent in parents):
            return Choice(name, options, "another model's card or config names it as its base")
    return Choice("none", options, "nothing shows that one of them is the others' base")


def _parents(folder: Path, named: object) -> list[str]:
    """What a model says that it was made from."""
    path = folder / "README.md"
    try:
        front = read_text(path, CARD_LIMIT).split("\n---", 1)[0] if path.is_file() else ""
    except ModelError:
        front = ""
    found = re.search(r"^base_model:[ \t]*(\S[^\n]*)?((\n[ \t]*- [^\n]+)*)", front, re.MULTILINE)
    lines = [found[1] or "", *found[2].split("\n")] if found else []
    values = [line.strip().removeprefix("- ").strip("\"'[] ") for line in lines]
    return [value for value in [*values, named] if isinstance(value, str) and value]


def choose(survey: Survey, base: Choice) -> Choices:
    """Method, dtype and vocabulary of related models, the base first where there is one."""
    return Choices(
        survey, base, _method(survey, base.value != "none"), _dtype(survey.lineup), _tokenizer(survey.lineup)
    )


def _method(survey: Survey, has_base: bool) -> Choice:
    count = len(survey.lineup.names)
    if count == 2:
        return _installed(OF_TWO, "of two models it keeps the length of the weights, which averages shorten")
    if not has_base:
        return _installed(OF_MANY, "the mean of models with one origin (a model soup) needs no base")
    clashes = [survey.clash(pair) for pair in survey.lineup.pairs]
    cosine = sum(clash.cosine for clash in clashes) / len(clashes)
    conflict = max(clash.conflict for clash in clashes)
    if cosine >= ALIGNED:
        return _installed(("linear", *WITH_BASE[:-1]), f"the models learnt much of the same (cosine {cosine:.2f})")
    found = f"the models changed different things (cosine {cosine:.2f})"
    if conflict >= OPPOSED:
        return _installed(WITH_BASE, f"{found} and oppose each other in {percent(conflict)} of them: it elects signs")
    return _installed(("task_arithmetic", *(m for m in WITH_BASE if m != "task_arithmetic")), found)


def _installed(names: Sequence[str], reason: str) -> Choice:
    there = {plugin.name for plugin in listed("methods")}
    options = tuple(name for name in names if name in there)
    if not options:
        raise InputError(
            f"none of the methods that fit is installed: pip install mergecore-{names[0].replace('_', '-')}"
        )
    return Choice(options[0], options, reason)


def _dtype(lineup: Lineup) -> Choice:
    found = [
        max(FLOATS, key=lambda dtype, c=checkpoint: sum(info.dtype == dtype for info in c.tensors.values()))  # type: ignore[misc]
        for checkpoint in lineup.checkpoints
    ]
    same = len(set(found)) == 1
    reason = "what the models are stored in" if same else f"what {labels(lineup.names)[0]} is stored in"
    return Choice(TORCH_NAMES[found[0]], tuple(TORCH_NAMES[dtype] for dtype in FLOATS), reason)


def _tokenizer(lineup: Lineup) -> Choice | None:
    found = token_differences(lineup.checkpoints)
    rows = any(name in tables(lineup) for names in lineup.reshaped.values() for name in names)
    if not rows and all(tokens is None or tokens.same for tokens in found):
        return None
    more = [name for name, tokens in zip(labels(lineup.names), found) if tokens and tokens.own > tokens.shared]
    if more or not any(found):
        who = ", ".join(more) or "the models"
        return Choice("union", ("union", "base"), f"{who} have tokens of their own; union keeps those of all models")
    return Choice("base", ("base", "union"), "the models' tokens differ, and the base has them all")
