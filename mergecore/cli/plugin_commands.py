"""What the command line says of plugins: the lists, the doctor, the scaffold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mergecore.cli import arch_commands
from mergecore.cli.console import say
from mergecore.cli.options import AsJson
from mergecore.discovery import KINDS, Plugin, known_plugins, listed
from mergecore.errors import InputError

app = typer.Typer(help="Installed plugins and their health.", no_args_is_help=True)


@app.command("list")
def plugins_list(as_json: AsJson = False) -> None:
    """Every installed plugin with its distribution."""
    found = [plugin for kind in KINDS for plugin in listed(kind)]
    _print_plugins(found, as_json, with_kind=True)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Import every plugin and say which are broken, and the command that mends each."""
    from mergecore.cli import render
    from mergecore.discovery import examine

    findings = examine()
    render.print_findings(findings, as_json)
    if any(finding.bad for finding in findings):
        raise typer.Exit(1)


def new(
    kind: Annotated[str, typer.Argument(help="method, arch, hooks, postprocessor or command.")],
    name: Annotated[str, typer.Argument(help="Small letters, digits and _.")],
    into: Annotated[Path, typer.Option(help="Where to make its folder.")] = Path("."),
    model: Annotated[str, typer.Option("--from", help="For arch: a model folder whose weights to begin with.")] = "",
    then: Annotated[str, typer.Option("--next", hidden=True, help="What to do next, where it isn't installing.")] = "",
) -> None:
    """Write the package of a new plugin: installs, passes its tests, waits to be filled."""
    from mergecore.discovery import write_package

    if model and kind != "arch":
        raise InputError(f"--from is for architectures; leave it out of mergecore new {kind}")
    for path in write_package(kind, name, into, arch_commands.inferred_from(model) if model else None):
        print(path)
    say(f"next: {then or f'pip install -e {into / name}'}")


def print_kind(kind: str, as_json: bool) -> None:
    """The plugins of one kind for its `list` command."""
    found = listed(kind)
    _print_plugins(found, as_json, with_kind=False)
    if not found and not as_json:
        example = next(iter(known_plugins()[kind].values()))
        say(f"no {kind} are installed; for example: pip install {example}")


def _print_plugins(found: list[Plugin], as_json: bool, with_kind: bool) -> None:
    if as_json:
        keys = ("kind", "name", "distribution", "version", "value")
        print(json.dumps([{key: getattr(plugin, key) for key in keys} for plugin in found], indent=2))
        return
    width = max((len(plugin.name) for plugin in found), default=0)
    for plugin in found:
        kind = f"{plugin.kind:15}" if with_kind else ""
        print(f"{kind}{plugin.name:{width}}  {plugin.distribution} {plugin.version}")
