"""Arguments and options that several commands share, core's and those of packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergecore.errors import InputError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]
RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
ModelPath = Annotated[str, typer.Argument(help="A model: a folder, or org/name on the Hub.", show_default=False)]
Out = Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)]
Memory = Annotated[
    str, typer.Option("--memory", help="What may be in flight, such as 2GB; default: half of what is free.")
]
ArchDirs = Annotated[
    list[Path], typer.Option("--arch-dir", help="A folder of architecture files to use before the installed ones.")
]
PluginFiles = Annotated[
    list[Path], typer.Option("--plugin", help="A Python file with a method or hooks, used before what is installed.")
]
NoHooks = Annotated[bool, typer.Option("--no-hooks", help="Load no installed hook plugin.")]
StrictPlugins = Annotated[
    bool, typer.Option("--strict-plugins", help="Stop where a broken plugin would be left out with a warning.")
]
RequireLicence = Annotated[
    str, typer.Option("--require-license", help="permissive: refuse models whose cards state no permissive licence.")
]


def size(text: str, option: str) -> int:
    """Bytes from ``256MB``, ``1.5GiB``, ``5B`` (billions of bytes, as elsewhere in this field) or a plain number.

    Raises:
        InputError: it is not a size above nothing; `option` says which one to mend.
    """
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30}
    upper = text.strip().upper()
    digits = upper.rstrip("KMGBTI")
    unit = upper[len(digits) :]
    unit = unit.removesuffix("B") if len(unit) > 1 else unit
    try:
        number = float(digits) * units[unit]
    except (ValueError, KeyError):
        raise InputError(f"{option}: {text!r} is not a size; write one such as 256MB, 2GB or 1.5GiB") from None
    if not 0 < number < float("inf"):
        raise InputError(f"{option}: must be more than nothing, not {text!r}")
    return int(number)
