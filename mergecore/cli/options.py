"""Arguments and options shared by several commands in core and in other packages."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergecore.cli.memory_limits import check_address_space
from mergecore.errors import InputError

if TYPE_CHECKING:
    from mergecore.running import Options


class RequiredLicense(str, Enum):
    """The values that --require-license accepts, which are kinds of `mergecore.api.license_kind`."""

    permissive = "permissive"

    def __str__(self) -> str:
        return self.value


class HealthCheck(str, Enum):
    """The values that --health accepts."""

    quick = "quick"
    full = "full"

    def __str__(self) -> str:
        return self.value


AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]
RecipePath = Annotated[Path, typer.Argument(help="The recipe (a YAML file).", show_default=False)]
ModelPath = Annotated[str, typer.Argument(help="A model folder, or org/name on the Hub.", show_default=False)]
Out = Annotated[Path, typer.Argument(help="The output folder to create.", show_default=False)]
Memory = Annotated[str, typer.Option("--memory", help="Memory budget, such as 2GB. Default: half of the free memory.")]
Workers = Annotated[int, typer.Option("--workers", help="Number of threads. Default: one per core.", min=0)]
ShardSize = Annotated[str, typer.Option("--shard-size", help="Maximum size of a weight file. Default: 5GB.")]
ArchDirs = Annotated[
    list[Path], typer.Option("--arch-dir", help="A folder with architecture files to use before installed ones.")
]
PluginFiles = Annotated[
    list[Path], typer.Option("--plugin", help="A Python file with plugins that take precedence over installed ones.")
]
NoHooks = Annotated[bool, typer.Option("--no-hooks", help="Do not load installed hook plugins.")]
StrictPlugins = Annotated[
    bool, typer.Option("--strict-plugins", help="Fail if a plugin is broken instead of skipping it with a warning.")
]
RequireLicense = Annotated[
    RequiredLicense | None,
    typer.Option("--require-license", help="Reject models without such a license in the card.", show_default=False),
]

Health = Annotated[
    HealthCheck,
    typer.Option("--health", help="Check the result alone for at most 20 s, or compare it with the models (full)."),
]
NoHealth = Annotated[bool, typer.Option("--no-health", help="Skip the health check of the result.")]


def parse_size(text: str, option: str) -> int:
    """Convert ``256MB``, ``1.5GiB``, ``5B`` (billions of bytes, as is common for models), or a plain number to bytes.

    Raises:
        InputError: if it is not a positive size. The message names `option`.
    """
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30}
    upper = text.strip().upper()
    digits = upper.rstrip("KMGBTI")
    unit = upper[len(digits) :]
    unit = unit.removesuffix("B") if len(unit) > 1 else unit
    try:
        number = float(digits) * units[unit]
    except (ValueError, KeyError):
        raise InputError(f"{option}: {text!r} is not a size; write it like 256MB, 2GB, or 1.5GiB") from None
    if not 0 < number < float("inf"):
        raise InputError(f"{option}: must be greater than zero, not {text!r}")
    return int(number)


def memory_budget(memory: str = "") -> int:
    """Return the bytes that `--memory` allows, or half of the free memory if it is empty.

    Raises:
        InputError: if it is not a positive size.
        RunError: if the shell allows too little memory to merge anything.
    """
    check_address_space()
    from mergecore.running import spare_memory

    return parse_size(memory, "--memory") if memory else spare_memory()


def run_options(
    memory: str = "",
    workers: int = 0,
    shard_size: str = "",
    health: HealthCheck = HealthCheck.quick,
    no_health: bool = False,
    **others: Any,
) -> Options:
    """Return the options of a run from the values of the options with the same names.

    Args:
        memory: memory budget. Defaults to half of the free memory.
        workers: number of threads. Defaults to one per core.
        shard_size: maximum size of a weight file. Defaults to 5 GB, or the size in a lock file.
        health, no_health: how to check the result, or not at all.
        others: fields of `Options`.

    Raises:
        InputError: if a size is not positive.
    """
    from mergecore.running import Options, available_cores

    shard_bytes = parse_size(shard_size, "--shard-size") if shard_size else 0
    return Options(
        memory_budget(memory),
        workers or available_cores(),
        shard_bytes,
        without=("health",) if no_health else (),
        choices={"health": health.value},
        **others,
    )
