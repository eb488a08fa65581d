"""The pages of the installed methods: formula, plot of what it does to weights, parameters, and a first recipe."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

import plots

from mergecore import plugins, views
from mergecore.api import Base, DeltaMethod, Method
from mergecore.registry import Registry

NESTED = r"[^()]*"
for _ in range(3):
    NESTED = rf"(?:[^()]|\({NESTED}\))*"
FORMULA = re.compile(rf"result = (?:[^;,.()]|[.](?=\d)|\({NESTED}\))+")
"""A formula up to the mark that ends it, where none inside parentheses counts."""


def pages() -> dict[str, str | bytes]:
    """A page and a plot for each method, and the list of them, by their paths in the site."""
    methods = Registry(stop).all_methods()
    found: dict[str, str | bytes] = {"reference/methods/index.md": index(methods)}
    for name, method in methods.items():
        found[f"reference/methods/{name}.md"] = page(name, method)
        found[f"reference/methods/{name}.svg"] = plots.plot(name, method)
    return found


def folders() -> dict[str, str]:
    """The page of the first method of each package of the tree, by the package's folder."""
    pages: dict[str, str] = {}
    for plugin in sorted(plugins.listed("methods"), key=lambda plugin: plugin.name):
        package = plugin.distribution.removeprefix("mergecore-").replace("-", "_")
        pages.setdefault(f"plugins/methods/{package}", f"reference/methods/{plugin.name}.md")
    return pages


def stop(text: str) -> None:
    """A plugin that cannot be loaded would be left out of the documentation."""
    raise SystemExit(f"documentation: {text}")


def index(methods: dict[str, type[Method]]) -> str:
    """The list of the methods, with how to read the plots."""
    lines = [
        f"| [`{name}`]({name}.md) | {plain(summary(method))} | {takes(method)} |" for name, method in methods.items()
    ]
    return f"""# Methods

What can be named as `merge_method`. Each page has the formula, the parameters, a recipe to begin with and a plot.

| method | what | models |
|---|---|---|
{chr(10).join(lines)}

## How to read the plots

Two fine-tunes A and B of one base are made from random numbers: a matrix of {plots.SIDE} by {plots.SIDE} weights, of
which each fine-tune changes {plots.CHANGED:.0%}, and half of what they learned is the same. Each dot is one weight: its
place from left to right is how far A moved it from the base, its colour how far B did, and its height how far the
merged model is from the base. So

- a dot on the dashed line has A's change and nothing else,
- a dot on the line at zero has lost its change,
- dots between the two have a part of it, and stripes of colour show what came from B.
"""


def page(name: str, method: type[Method]) -> str:
    """The page of one method."""
    view = views.method_view(name, method)
    about, _, rest = view["doc"].partition("\n\n")
    settings = plots.settings(method)
    used = f" with {', '.join(f'{key} {value}' for key, value in settings.items())}" if settings else ""
    seen = "A alone is merged" if plots.models_of(method) == 1 else "A and B are merged"
    base = {"required": "required", "optional": "may be given", "input": "if given, a model like the others"}
    return f"""# `{name}`

{prose(about)}

## Formula

{prose(rest)}

## What it does to weights

![{name}: the change of each weight in the merged model over its change in A]({name}.svg){{ width="640" }}

{seen}{used}. [How to read the plots](index.md#how-to-read-the-plots)

## Parameters

{parameters(view)}

- Models: {takes(method)}
- `base_model`: {base[view["base_model"]]}
- Package: `{plugins.find("methods", name).distribution}`

## A recipe

```yaml
{recipe(name, method)}
```
"""


def parameters(view: dict[str, Any]) -> str:
    """The parameters as a table."""
    rows = []
    for name, item in view["parameters"].items():
        where = "for each model" if item["per_model"] else "for the merge"
        default = f"`{json.dumps(item['default'])}`" if "default" in item else "required"
        rows.append(f"| `{name}` | {plain(item['description'])} | {values(item)}, {where} | {default} |")
    rows += [f"| `{name}` | Accepted, changes nothing. | | |" for name in view["ignored"]]
    heading = ["| parameter | what | value | default |", "|---|---|---|---|"]
    return "\n".join(heading + rows) if rows else "It has none."


def values(item: dict[str, Any]) -> str:
    """The values that a parameter may have."""
    words = [item["type"]] if "type" in item else []
    if "minimum" in item and "maximum" in item:
        words += [f"{item['minimum']:g} to {item['maximum']:g}"]
    elif "minimum" in item:
        words += [f"at least {item['minimum']:g}"]
    words += [" or ".join(f"`{value}`" for value in item["enum"])] if "enum" in item else []
    return ", ".join(words)


def recipe(name: str, method: type[Method]) -> str:
    """A recipe that uses the method, with the settings of the plot."""
    items = views.method_view(name, method)["parameters"]
    settings = plots.settings(method)
    own = {key: value for key, value in settings.items() if items[key]["per_model"]}
    top = {key: value for key, value in settings.items() if key not in own}
    lines = [f"merge_method: {name}"]
    if method.base is not Base.INPUT:
        lines.append("base_model: models/base")
    lines.append("models:")
    for model in ("code", "prose")[: plots.models_of(method)]:
        lines.append(f"  - model: models/{model}")
        lines += [f"    parameters: {mapping(own)}"] if own else []
    return "\n".join(lines + ([f"parameters: {mapping(top)}"] if top else []))


def mapping(items: dict[str, Any]) -> str:
    """Settings in YAML's short form."""
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in items.items()) + "}"


def takes(method: type[Method]) -> str:
    """How many models it takes, as `mergecore methods show` says it."""
    low, high = method.models
    count = f"{low} or more" if high is None else str(low) if low == high else f"{low} to {high}"
    if method.base is Base.INPUT:
        return count
    return (
        f"{count} beside the base model" if issubclass(method, DeltaMethod) else f"{count}, the base model among them"
    )


def summary(method: type[Method]) -> str:
    """The first sentence of what it says of itself, without the source."""
    first = (method.__doc__ or "").strip().partition("\n\n")[0]
    return re.sub(r" \([^()]*https?://[^()]*\)", "", " ".join(first.split()))


def prose(text: str) -> str:
    """A docstring's paragraphs as Markdown: formulae as code, addresses as links, all else as it is."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        line, done = " ".join(paragraph.split()), []
        while match := FORMULA.search(line):
            done.append(plain(line[: match.start()]) + f"**`{match[0].strip()}`** ")
            line = line[match.end() :]
        joined = ("".join(done) + plain(line)).replace("** ;", "**;").replace("** ,", "**,").replace("** .", "**.")
        paragraphs.append(joined)
    return "\n\n".join(paragraphs)


def plain(text: str) -> str:
    """Text with nothing in it that Markdown would take for markup, but addresses as links."""
    parts = re.split(r"(https?://[^\s)]+)", text)
    escaped = [re.sub(r"([\\*_|\[\]])", r"\\\1", escape(part, quote=False)) for part in parts]
    escaped[1::2] = [f"<{address}>" for address in parts[1::2]]
    return "".join(escaped)
