"""New plugin packages, written from templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergecore.errors import InputError

TEMPLATES = Path(__file__).parent / "templates"
"""A folder for each kind of package; ``@name@``, ``@dist@`` and ``@class@`` are filled in, ``.txt`` is taken off."""


def write_package(kind: str, name: str, into: Path, inferred: Mapping[str, Any] | None = None) -> list[Path]:
    """Write the package of a new plugin.

    Args:
        kind: a folder of `TEMPLATES`.
        name: of the method or model family; becomes the folder's and, as ``mergecore_NAME``, the module's name.
        into: folder that the package's folder is made in.
        inferred: for an architecture, the JSON to begin with; the first of its `classes` becomes an entry point.

    Returns:
        The files written.

    Raises:
        InputError: there is no such kind, the name cannot be a Python module's, or the folder exists.
    """
    kinds = sorted(path.name for path in TEMPLATES.iterdir())
    if kind not in kinds:
        raise InputError(f"there is no template for {kind!r}; write one of: {', '.join(kinds)}")
    if not name.isidentifier() or name != name.lower():
        raise InputError(f"{name!r} cannot be a package's name; use small letters, digits and _")
    folder = into / name
    if folder.exists():
        raise InputError(f"{folder}: exists already; give another name")
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
