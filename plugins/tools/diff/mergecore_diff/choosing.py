"""Choose the base, method, dtype, and vocabulary for a merge, each with a reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mergecore.api import FLOATS, InputError, ModelError, read_text
from mergecore.api.files import TORCH_NAMES
from mergecore.tooling import list_plugins
from mergecore_diff.differences import token_differences
from mergecore_diff.lineup import Lineup
from mergecore_diff.survey import Survey
from mergecore_diff.verdict import ALIGNED, OPPOSED, RELATED, ancestor, labels, likeness, percent

CARD_LIMIT = 10**6
"""Maximum size in bytes of a README.md that is searched for a base model."""

WITH_BASE = ("ties", "dare_ties", "task_arithmetic", "della", "model_stock", "linear")
OF_TWO = ("slerp", "linear")
OF_MANY = ("linear", "karcher")
"""Suitable methods, the preferred one first."""


@dataclass(frozen=True)
class Choice:
    """A chosen value, the alternatives, and the reason for the choice."""

    value: str
    options: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Choices:
    """All choices that a recipe needs.

    Attributes:
        survey: Measurements of a sample of layers. The first model is the base, if there is one.
        base: The base model, or empty if there is none.
        method, dtype: Values as recipes spell them.
        tokenizer: None if the models share one vocabulary.
    """

    survey: Survey
    base: Choice
    method: Choice
    dtype: Choice
    tokenizer: Choice | None


def sample(lineup: Lineup) -> Lineup:
    """Keep only the matrices of the first, middle, and last layers, or all rows if there are no such matrices."""
    layers = list(dict.fromkeys(row.layer for row in lineup.rows if row.layer))
    kept = {layers[0], layers[len(layers) // 2], layers[-1]} if layers else {""}
    tensors = lineup.checkpoints[0].tensors
    rows = [row for row in lineup.rows if row.layer in kept and len(tensors[row.tensors[0]].shape) > 1]
    return replace(lineup, rows=tuple(rows) or lineup.rows)


def check_mergeable(survey: Survey) -> None:
    """Reject models that no method can merge weight by weight.

    Raises:
        InputError: The models do not fit. The message says why and what to do instead.
    """
    lineup, names = survey.lineup, labels(survey.lineup.names)
    for model in range(1, len(names)):
        both = f"{names[model]} and {names[0]}"
        if model in lineup.strangers:
            raise InputError(f"{both} cannot be merged: {lineup.strangers[model]}")
        if lineup.lacking.get(model) or lineup.added.get(model):
            alone = [*lineup.lacking.get(model, ()), *lineup.added.get(model, ())]
            raise InputError(
                f"{both} do not have the same weights: only one has {alone[0]!r} ({len(alone)} in total);"
                " to combine whole layers, use mergecore stack slices"
            )
        shapes = [name for name in lineup.reshaped.get(model, ()) if name not in tables(lineup)]
        if shapes:
            raise InputError(
                f"{both} differ in the shape of {shapes[0]!r} ({len(shapes)} in total); shapes must be equal"
            )
        found = likeness(survey, model)
        if not found >= RELATED:
            raise InputError(
                f"{both} were not trained from the same base: the median cosine between their weights is {found:.2f}"
                f" (at least {RELATED} for related models), so averages and task vectors would be noise. To combine"
                " models that share only their shapes, use mergecore moe or mergecore stack shuffle"
            )


def tables(lineup: Lineup) -> set[str]:
    """Return the names of the weights that have one row per token."""
    base = lineup.checkpoints[0]
    weights = lineup.architecture.weights(base.config, base.reference)
    return {weight.name for weight in weights if weight.vocabulary_axis == 0}


def find_base(survey: Survey) -> Choice:
    """Find the common base of the models from their distances, or else from their cards and configs.

    Two models whose cards and configs name no base have none.
    """
    names = survey.lineup.names
    options = (*names, "none")
    between = ancestor(survey)
    if between is not None:
        return Choice(names[between], options, "the others look like its fine-tunes")
    parents = [parent for checkpoint in survey.lineup.checkpoints
               for parent in _parents(checkpoint.folder, checkpoint.config.get("_name_or_path"))]  # fmt: skip
    for name, short in zip(names, labels(names)):
        if any(parent == name or parent.rpartition("/")[2] == short for parent in parents):
            return Choice(name, options, "another model's card or config lists it as the base")
    return Choice("none", options, "no model looks like the base of the others")


def _parents(folder: Path, named: object) -> list[str]:
    """Return the base models that a model's card and config name."""
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
    """Choose method, dtype, and vocabulary for related models. The base, if any, comes first."""
    return Choices(
        survey, base, _method(survey, base.value != "none"), _dtype(survey.lineup), _tokenizer(survey.lineup)
    )


def _method(survey: Survey, has_base: bool) -> Choice:
    count = len(survey.lineup.names)
    if count == 2:
        return _installed(OF_TWO, "it keeps the norm of the weights, which averaging shrinks")
    if not has_base:
        return _installed(OF_MANY, "averaging models of the same origin (a model soup) needs no base")
    clashes = [survey.clash(pair) for pair in survey.lineup.pairs]
    cosine = sum(clash.cosine for clash in clashes) / len(clashes)
    conflict = max(clash.conflict for clash in clashes)
    if cosine >= ALIGNED:
        return _installed(("linear", *WITH_BASE[:-1]), f"the models learned similar things (cosine {cosine:.2f})")
    found = f"the models changed different things (cosine {cosine:.2f})"
    if conflict >= OPPOSED:
        return _installed(WITH_BASE, f"{found} with opposite signs in {percent(conflict)} of shared changes")
    return _installed(("task_arithmetic", *(m for m in WITH_BASE if m != "task_arithmetic")), found)


def _installed(names: Sequence[str], reason: str) -> Choice:
    there = {plugin.name for plugin in list_plugins("methods")}
    options = tuple(name for name in names if name in there)
    if not options:
        raise InputError(f"no suitable method is installed: pip install mergecore-{names[0].replace('_', '-')}")
    return Choice(options[0], options, reason)


def _dtype(lineup: Lineup) -> Choice:
    found = [
        max(FLOATS, key=lambda dtype, c=checkpoint: sum(info.dtype == dtype for info in c.tensors.values()))  # type: ignore[misc]
        for checkpoint in lineup.checkpoints
    ]
    same = len(set(found)) == 1
    reason = "the models use this dtype" if same else f"{labels(lineup.names)[0]} uses this dtype"
    return Choice(TORCH_NAMES[found[0]], tuple(TORCH_NAMES[dtype] for dtype in FLOATS), reason)


def _tokenizer(lineup: Lineup) -> Choice | None:
    found = token_differences(lineup.checkpoints)
    rows = any(name in tables(lineup) for names in lineup.reshaped.values() for name in names)
    if not rows and all(tokens is None or tokens.same for tokens in found):
        return None
    more = [name for name, tokens in zip(labels(lineup.names), found) if tokens and tokens.own > tokens.shared]
    if more or not any(found):
        why = f"{', '.join(more)} added tokens" if more else "the vocabularies differ"
        return Choice("union", ("union", "base"), f"{why}; union keeps the tokens of all models")
    return Choice("base", ("base", "union"), "the models' tokens differ, and the base has them all")
