"""Write a recipe with a comment on every choice."""

from __future__ import annotations

from collections.abc import Iterator

from mergecore.tooling import printable
from mergecore_diff.choosing import Choices
from mergecore_diff.verdict import labels, percent

PER_MODEL: dict[str, tuple[tuple[str, float, str], ...]] = {
    "ties": (
        ("weight", 1.0, "how much this model counts"),
        ("density", 0.5, "keep the largest half of its changes"),
    ),
    "dare_ties": (("weight", 1.0, "how much this model counts"), ("density", 0.5, "keep a random half of its changes")),
    "della": (
        ("weight", 1.0, "how much this model counts"),
        ("density", 0.5, "keep half of its changes, favoring large ones"),
    ),
    "task_arithmetic": (("weight", 1.0, "scale of its changes; lower it if the result loses what the base knew"),),
    "linear": (("weight", 1.0, "how much this model counts; only the proportions matter"),),
}
"""The per-model parameters of each method: name, value, and meaning."""

SHARED = {"slerp": ("t", 0.5, "0 is the first model, 1 the second; try 0.3 and 0.7")}
"""The global parameters of each method."""


def recipe_text(choices: Choices, made_by: str) -> str:
    """Return the recipe as YAML."""
    return "\n".join(_lines(choices, made_by)) + "\n"


def _lines(choices: Choices, made_by: str) -> Iterator[str]:
    method, base = choices.method, choices.base
    yield f"# Written by: {printable(made_by)}"
    yield "# Next: mergecore plan THIS_FILE, then mergecore run THIS_FILE out/"
    yield ""
    yield f"# {method.value}: {printable(method.reason)}."
    if len(method.options) > 1:
        yield f"# Other methods that fit: {', '.join(name for name in method.options if name != method.value)};"
        yield "# see their parameters with: mergecore methods show NAME"
    yield f"merge_method: {method.value}"
    yield ""
    if base.value != "none" and method.value != "linear":
        yield f"# The base: {printable(base.reason)}."
        yield f"base_model: {scalar(base.value)}"
        yield ""
    elif method.value == "slerp":
        yield f"# No base: {printable(base.reason)}. The first model is used in its place."
        yield f"base_model: {scalar(choices.survey.lineup.names[0])}"
        yield ""
    yield from _models(choices)
    if method.value in SHARED:
        name, value, meaning = SHARED[method.value]
        yield f"parameters:\n  {name}: {value}  # {meaning}\n"
    yield f"dtype: {choices.dtype.value}  # {printable(choices.dtype.reason)}"
    if choices.tokenizer is not None:
        yield ""
        yield f"# {printable(choices.tokenizer.reason)}."
        yield f"tokenizer:\n  source: {choices.tokenizer.value}"


def _models(choices: Choices) -> Iterator[str]:
    survey, method = choices.survey, choices.method.value
    names = survey.lineup.names
    has_base = choices.base.value != "none"
    yield "models:"
    for model, name in enumerate(names):
        if model == 0 and has_base and method != "slerp":
            continue  # is listed as base_model; an average covers only the others
        moved = percent(survey.change(model).relative) if model else ""
        first = labels(names)[0]
        comment = f"  # its weights differ from those of {printable(first)} by about {moved}" if moved else ""
        yield f"  - model: {scalar(name)}{comment}"
        if parameters := PER_MODEL.get(method):
            yield "    parameters:"
            yield from (f"      {key}: {value}  # {meaning}" for key, value, meaning in parameters)
    yield ""


def scalar(text: str) -> str:
    """Format text as a YAML value on one line."""
    import yaml

    style = '"' if "\n" in text else None
    return str(yaml.safe_dump([text], width=10**6, allow_unicode=True, default_style=style))[2:].rstrip("\n")
