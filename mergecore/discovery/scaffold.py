"""Create new plugin packages from templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergecore.errors import InputError

TEMPLATES = Path(__file__).parent / "templates"
"""One folder per kind of package. ``@name@``, ``@dist@``, and ``@class@`` are filled in, and ``.txt`` is removed."""


def write_package(kind: str, name: str, into: Path, inferred: Mapping[str, Any] | None = None) -> list[Path]:
    """Write a package for a new plugin.

    Args:
        kind: name of a folder in `TEMPLATES`.
        name: name of the plugin. The folder gets this name, and the module is called ``mergecore_NAME``.
        into: folder to create the package in.
        inferred: for an architecture, the JSON to start from. Its `classes` become the entry points.

    Returns:
        The written files.

    Raises:
        InputError: if there is no such kind, the name is not valid in Python, or the folder exists.
    """
    kinds = sorted(path.name for path in TEMPLATES.iterdir())
    if kind not in kinds:
        raise InputError(f"no template for {kind!r}; use one of: {', '.join(kinds)}")
    if not name.isidentifier() or name != name.lower():
        raise InputError(f"{name!r} is not a valid package name; use lowercase letters, digits, and _")
    folder = into / name
    if folder.exists():
        raise InputError(f"{folder}: already exists; use another name")
    kind_of_class = inferred["classes"][0] if inferred else "@class@ForCausalLM"
    words = {
        "@class@ForCausalLM": kind_of_class,
        "@name@": name,
        "@dist@": name.replace("_", "-"),
        "@class@": name.title().replace("_", ""),
    }
    written = []
    for template in sorted(path for path in (TEMPLATES / kind).rglob("*.txt")):
        target = folder / _fill(str(template.relative_to(TEMPLATES / kind).with_suffix("")), words)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_fill(template.read_text("utf-8"), words), "utf-8")
        written.append(target)
        if inferred and target.suffix == ".json":
            target.write_text(json.dumps(inferred, indent=2) + "\n", "utf-8")
    return written


def _fill(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
