"""Print the public names for plugin authors (`api`) or for tools (`tooling`), one line per name.

`./dev sync` writes the output to docs/api-v1.txt and docs/tooling-v1.txt.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from mergecore_testing.conformance import conformance

from mergecore import api, hookspecs, tooling
from mergecore.discovery import entry_points


def api_surface() -> str:
    """Return the names and signatures of the API, the hooks, the entry-point groups, and the test kit."""
    lines = [line for name in sorted(api.__all__) for line in described(name, getattr(api, name))]
    hooks = sorted(name for name in vars(hookspecs) if name.startswith("mergecore_"))
    lines += [f"hook {name}{inspect.signature(getattr(hookspecs, name))}" for name in hooks]
    lines += [f"group {entry_points.PREFIX}{kind}" for kind in entry_points.KINDS]
    lines += [f"mergecore_testing.conformance.conformance{inspect.signature(conformance)}"]
    return as_text(lines)


def tooling_surface() -> str:
    """Return the names and signatures of `mergecore.tooling`."""
    return as_text(line for name in sorted(tooling.__all__) for line in described(name, getattr(tooling, name)))


def as_text(lines: Iterable[str]) -> str:
    """Return the lines without the addresses of objects in memory."""
    return "".join(re.sub(r" object at 0x[0-9a-f]+", "", line) + "\n" for line in lines)


SURFACES = {"api": api_surface, "tooling": tooling_surface}


def described(name: str, item: Any) -> Iterator[str]:
    """Yield the lines for one name."""
    if inspect.isclass(item):
        yield f"class {name}({', '.join(base.__name__ for base in item.__bases__)})"
        yield from (f"  {name}.{line}" for line in members(item))
    elif inspect.isfunction(item):
        yield f"def {name}{inspect.signature(item)}"
    else:
        yield f"{name}: {type(item).__name__}"


def members(item: type) -> Iterator[str]:
    """Yield the public members that a class defines itself."""
    fields = {field.name: field for field in dataclasses.fields(item)} if dataclasses.is_dataclass(item) else {}
    own = vars(item)
    for name, annotation in own.get("__annotations__", {}).items():
        if not name.startswith("_"):
            required = name not in fields or fields[name].default is fields[name].default_factory
            yield f"{name}: {annotation}{'' if required else ' (optional)'}"
    for name, value in own.items():
        if name == "__init__" and dataclasses.is_dataclass(item):
            continue
        if inspect.isfunction(value) and value.__module__ != "typing" and name.lstrip("_") in (name, "init__"):
            yield f"{name}{inspect.signature(value)}"
        elif not name.startswith("_") and name not in own.get("__annotations__", {}):
            yield name


if __name__ == "__main__":
    print(SURFACES[sys.argv[1]](), end="")  # noqa: T201
