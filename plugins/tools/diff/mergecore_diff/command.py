"""The command `mergecore diff BASE MODEL [MODEL ...]`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergecore.api import InputError
from mergecore.tooling import (
    ArchDirs,
    AsJson,
    Progress,
    Quiet,
    Registry,
    available_cores,
    check_unchanged,
    local_definitions,
    say,
    warn,
    write_whole,
)

if TYPE_CHECKING:
    from mergecore_diff.survey import Survey

Models = Annotated[list[str], typer.Argument(help="Model folders, with the base first.", show_default=False)]
Page = Annotated[str, typer.Option("--html", help="Write heatmaps by layer and kind of weight to this HTML file.")]
Picture = Annotated[str, typer.Option("--png", help="Write the heatmaps to this PNG file. Requires matplotlib.")]
Weights = Annotated[bool, typer.Option("--weights", help="Show one row per weight instead of per layer.")]
Base = Annotated[str, typer.Option("--base", help="Compare with this model instead of the first one.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace existing output files.")]


def diff(
    models: Models,
    base: Base = "",
    html: Page = "",
    png: Picture = "",
    weights: Weights = False,
    arch_dir: ArchDirs = [],  # noqa: B006  typer creates a new list for every call
    force: Replace = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare the weights, config, and tokens of models, and report what the differences mean for a merge."""
    references = with_base(models, base)
    targets = {Path(name): suffix for name, suffix in ((html, ".html"), (png, ".png")) if name}
    for path, suffix in targets.items():
        check_target(path, suffix, force)
    if png:
        from mergecore_diff.picture import check_matplotlib

        check_matplotlib()
    found = compare(references, arch_dir, quiet)
    try:
        _show(found, Path(html) if html else None, Path(png) if png else None, weights, quiet, as_json)
    finally:
        found.lineup.close()


def with_base(models: list[str], base: str) -> list[str]:
    """Return the models to compare, with the base first.

    Raises:
        InputError: There are fewer than two models, or one is given twice.
    """
    references = [base, *(model for model in models if model != base)] if base else models
    if len(references) < 2:
        raise InputError("provide at least two models, with the base first: mergecore diff BASE MODEL [MODEL ...]")
    seen: dict[Path, str] = {}
    for reference in references:
        other = seen.setdefault(Path(os.path.expanduser(reference)).absolute(), reference)
        if other is not reference:
            raise InputError(f"{reference}: given twice; list each model once")
    return references


def check_target(path: Path, suffix: str, force: bool) -> None:
    """Reject an output file that cannot be written before the long comparison starts.

    Raises:
        InputError: The suffix is wrong, the file exists already, or its folder does not exist or is read-only.
    """
    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: must end in {suffix}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; provide a file name")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist; create it first")
    if not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"{path}: the folder {path.absolute().parent} is read-only; use another one")
    if path.exists() and not force:
        raise InputError(f"{path}: already exists; use another name, or --force to replace it")


def compare(references: list[str], arch_dir: list[Path], quiet: bool) -> Survey:
    """Line up models and measure them, showing progress."""
    from mergecore_diff.lineup import line_up
    from mergecore_diff.survey import bytes_to_read, survey

    lineup = line_up(references, Registry(warn, local_definitions(arch_dir)))
    try:
        with Progress(bytes_to_read(lineup), quiet, "comparing") as progress:
            found = survey(lineup, available_cores(), progress.advance)
        for checkpoint in lineup.checkpoints:
            check_unchanged(checkpoint.stamps)
        return found
    except BaseException:
        lineup.close()
        raise


def _show(found: Survey, html: Path | None, png: Path | None, weights: bool, quiet: bool, as_json: bool) -> None:
    from mergecore_diff.report import as_values, report
    from mergecore_diff.table import print_report

    told = report(found)
    if html:
        from mergecore_diff.page import page

        write_whole(html, page(told))
    if png:
        from mergecore_diff.picture import picture

        write_whole(png, picture(told))
    if as_json:
        typer.echo(json.dumps(as_values(told), indent=2))
    else:
        print_report(told, weights)
    for path in (html, png):
        if path and not quiet:
            say(f"wrote {path}")
