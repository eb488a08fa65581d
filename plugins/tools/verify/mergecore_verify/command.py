"""`mergecore verify`, which prints one line per check."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from mergecore.tooling import AsJson, printable


def verify(
    folder: Annotated[Path, typer.Argument(help="A model folder, an adapter, or BASE+ADAPTER.", show_default=False)],
    sample: Annotated[
        int, typer.Option(help="Recompute this many tensors from the parents and compare every bit.", min=0)
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Check that a model or adapter is complete and can be loaded. Exit with status 1 if a check fails."""
    from mergecore_verify.checks import examine

    findings = []
    for finding in examine(folder, sample):
        findings.append(finding)
        if not as_json:
            mark = {True: "ok", False: "FAIL", None: "-"}[finding.passed]
            typer.echo(f"{mark:5}{finding.check:13}{printable(finding.text)}")
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    if any(finding.passed is False for finding in findings):
        raise typer.Exit(1)
