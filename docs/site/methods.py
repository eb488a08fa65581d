"""Generate the pages of the installed methods: formula, plot of the effect on weights, parameters, and a recipe."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

import plots

from mergecore.api import Base, DeltaMethod, Method
from mergecore.cli import render
from mergecore.discovery import entry_points
from mergecore.discovery.registry import Registry

NESTED = r"[^()]*"
for _ in range(3):
    NESTED = rf"(?:[^()]|\({NESTED}\))*"
FORMULA = re.compile(rf"result = (?:[^;,.()]|[.](?=\d)|\({NESTED}\))+")
"""A formula up to the punctuation that ends it, ignoring punctuation inside parentheses."""


def pages() -> dict[str, str | bytes]:
    """Return a page and a plot for each method, and the list of methods, by their paths in the site."""
    methods = Registry(stop).all_methods()
    found: dict[str, str | bytes] = {"reference/methods/index.md": index(methods)}
    for name, method in methods.items():
        found[f"reference/methods/{name}.md"] = page(name, method)
        found[f"reference/methods/{name}.svg"] = plots.plot(name, method)
    return found


def folders() -> dict[str, str]:
    """Return the page of the first method of each package in the repository, by the package's folder."""
    pages: dict[str, str] = {}
    for plugin in sorted(entry_points.list_plugins("methods"), key=lambda plugin: plugin.name):
        package = plugin.distribution.removeprefix("mergecore-").replace("-", "_")
        pages.setdefault(f"plugins/methods/{package}", f"reference/methods/{plugin.name}.md")
    return pages


def stop(text: str) -> None:
    """Stop, because a plugin that cannot be loaded would be missing from the documentation."""
    raise SystemExit(f"documentation: {text}")


def index(methods: dict[str, type[Method]]) -> str:
    """Return the list of methods, with an explanation of the plots."""
    lines = [
        f"| [`{name}`]({name}.md) | {plain(summary(method))} | {takes(method)} |" for name, method in methods.items()
    ]
    return f"""# Methods

These are the values of `merge_method`. Each page shows the formula, a plot, the parameters, and a recipe to start from.

| method | what it does | models |
|---|---|---|
{chr(10).join(lines)}

## How to read the plots

The plots use a matrix with {plots.SIDE} by {plots.SIDE} random weights and two fine-tunes A and B of this base. Each
fine-tune changes {plots.CHANGED:.0%} of the weights, and half of what they learned is the same. Each dot is one weight.
The horizontal position shows how far A moved it from the base, the color shows how far B moved it, and the vertical
position shows how far the merged model is from the base.

- A dot on the dashed line has exactly A's change.
- A dot on the line at zero has lost its change.
- A dot between the two lines has part of A's change. Stripes of color show the influence of B.
"""


def page(name: str, method: type[Method]) -> str:
    """Return the page of one method."""
    view = render.method_view(name, method)
    about, _, rest = view["doc"].partition("\n\n")
    settings = plots.settings(method)
    used = f" with {', '.join(f'{key} {value}' for key, value in settings.items())}" if settings else ""
    seen = "Only A is merged" if plots.models_of(method) == 1 else "A and B are merged"
    base = {"required": "required", "optional": "optional", "input": "optional, treated like any other model"}
    return f"""# `{name}`

{prose(about)}

## Formula

{prose(rest)}

## Effect on weights

![{name}: the change of each weight in the merged model plotted against its change in A]({name}.svg){{ width="640" }}

{seen}{used}. [How to read the plots](index.md#how-to-read-the-plots)

## Parameters

{parameters(view)}

- Models: {takes(method)}
- `base_model`: {base[view["base_model"]]}
- Package: `{entry_points.find_plugin("methods", name).distribution}`

## Example recipe

```yaml
{recipe(name, method)}
```
"""


def parameters(view: dict[str, Any]) -> str:
    """Return the parameters as a table."""
    rows = []
    for name, item in view["parameters"].items():
        where = "per model" if item["per_model"] else "for the merge"
        default = f"`{json.dumps(item['default'])}`" if "default" in item else "required"
        rows.append(f"| `{name}` | {plain(item['description'])} | {values(item)}, {where} | {default} |")
    rows += [f"| `{name}` | Accepted, but has no effect. | | |" for name in view["ignored"]]
    heading = ["| parameter | meaning | value | default |", "|---|---|---|---|"]
    return "\n".join(heading + rows) if rows else "This method has no parameters."


def values(item: dict[str, Any]) -> str:
    """Describe the values that a parameter can have."""
    words = [item["type"]] if "type" in item else []
    words += [f"one of {', '.join(f'`{value}`' for value in item['enum'])}"] if "enum" in item else []
    bounds = {"minimum": "at least", "maximum": "at most"}
    words += [f"{text} {item[rule]:g}" for rule, text in bounds.items() if rule in item]
    return ", ".join(words)


def recipe(name: str, method: type[Method]) -> str:
    """Return a recipe that uses the method with the settings of the plot."""
    items = render.method_view(name, method)["parameters"]
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
    """Return settings in YAML's flow style."""
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in items.items()) + "}"


def takes(method: type[Method]) -> str:
    """Describe how many models the method takes."""
    low, high = method.models
    count = f"{low} or more" if high is None else str(low) if low == high else f"{low} to {high}"
    if method.base is Base.INPUT:
        return count
    return f"{count} plus the base model" if issubclass(method, DeltaMethod) else f"{count}, including the base model"


def summary(method: type[Method]) -> str:
    """Return the first sentence of the method's docstring, without its source."""
    first = (method.__doc__ or "").strip().partition("\n\n")[0]
    return re.sub(r" \([^()]*https?://[^()]*\)", "", " ".join(first.split()))


def prose(text: str) -> str:
    """Convert a docstring to Markdown: formulas become code, URLs become links, and all other text stays the same."""
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
    """Escape text so that Markdown does not interpret it, and turn URLs into links."""
    parts = re.split(r"(https?://[^\s)]+)", text)
    escaped = [re.sub(r"([\\*_|\[\]])", r"\\\1", escape(part, quote=False)) for part in parts]
    escaped[1::2] = [f"<{address}>" for address in parts[1::2]]
    return "".join(escaped)
