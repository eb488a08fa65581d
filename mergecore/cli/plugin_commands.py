"""Commands for plugins: list them, examine them with the doctor, and create new ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mergecore.cli import arch_commands
from mergecore.cli.console import say
from mergecore.cli.options import AsJson
from mergecore.discovery import KINDS, Plugin, Template, known_plugins, list_plugins
from mergecore.errors import InputError

app = typer.Typer(help="List and examine the installed plugins.", no_args_is_help=True)


@app.command("list")
def plugins_list(as_json: AsJson = False) -> None:
    """List every installed plugin with its distribution."""
    found = [plugin for kind in KINDS for plugin in list_plugins(kind)]
    _print_plugins(found, as_json, with_kind=True)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Import every plugin, report broken ones, and show how to fix them."""
    from mergecore.cli import render
    from mergecore.discovery import examine_plugins

    findings = examine_plugins()
    render.print_findings(findings, as_json)
    if any(finding.bad for finding in findings):
        raise typer.Exit(1)


def new(
    kind: Annotated[Template, typer.Argument(help="What to create.")],
    name: Annotated[str, typer.Argument(help="Lowercase letters, digits, and _.")],
    into: Annotated[Path, typer.Option(help="Folder to create the package in.")] = Path("."),
    model: Annotated[str, typer.Option("--from", help="For arch: a model folder to infer the weights from.")] = "",
    then: Annotated[
        str, typer.Option("--next", hidden=True, help="The next step to show instead of pip install.")
    ] = "",
) -> None:
    """Create a package for a new plugin. It installs and passes its tests, ready for you to fill in."""
    from mergecore.discovery import write_package

    if model and kind is not Template.arch:
        raise InputError(f"--from is only for architectures; remove it from mergecore new {kind.value}")
    for path in write_package(kind, name, into, arch_commands.inferred_from(model) if model else None):
        print(path)
    say(f"next: {then or f'pip install -e {into / name}'}")


def print_kind(kind: str, as_json: bool) -> None:
    """Print the plugins of one kind for its `list` command."""
    found = list_plugins(kind)
    _print_plugins(found, as_json, with_kind=False)
    if not found and not as_json:
        example = next(iter(known_plugins()[kind].values()))
        say(f"no {kind} are installed; try: pip install {example}")


def _print_plugins(found: list[Plugin], as_json: bool, with_kind: bool) -> None:
    if as_json:
        keys = ("kind", "name", "distribution", "version", "value")
        print(json.dumps([{key: getattr(plugin, key) for key in keys} for plugin in found], indent=2))
        return
    width = max((len(plugin.name) for plugin in found), default=0)
    for plugin in found:
        kind = f"{plugin.kind:15}" if with_kind else ""
        print(f"{kind}{plugin.name:{width}}  {plugin.distribution} {plugin.version}")
