"""Create new plugin packages from templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mergecore.errors import InputError, RunError

TEMPLATES = Path(__file__).parent / "templates"
"""One folder per kind of package. ``@name@``, ``@dist@``, and ``@class@`` are filled in, and ``.txt`` is removed."""


class Template(str, Enum):
    """The kinds of packages, which are the folders in `TEMPLATES`."""

    method = "method"
    arch = "arch"
    hooks = "hooks"
    postprocessor = "postprocessor"
    command = "command"


def write_package(kind: Template, name: str, into: Path, inferred: Mapping[str, Any] | None = None) -> list[Path]:
    """Write a package for a new plugin.

    Args:
        kind: kind of the plugin.
        name: name of the plugin. The folder gets this name, and the module is called ``mergecore_NAME``.
        into: folder to create the package in.
        inferred: for an architecture, the JSON to start from. Its `classes` become the entry points.

    Returns:
        The written files.

    Raises:
        InputError: if the name is not valid in Python, or the folder exists.
        RunError: if the package cannot be written.
    """
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
    source = TEMPLATES / kind.value
    files = {}
    for template in sorted(source.rglob("*.txt")):
        target = _fill(str(template.relative_to(source).with_suffix("")), words)
        given = json.dumps(inferred, indent=2) + "\n" if inferred and target.endswith(".json") else None
        files[target] = given or _fill(template.read_text("utf-8"), words)
    try:
        _write(folder, files)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return [folder / target for target in files]


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write a folder atomically."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        for name, text in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(text, "utf-8")
        draft.rename(folder)


def _fill(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
