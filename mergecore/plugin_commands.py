"""Commands for plugins: list them, examine them with the doctor, and create new ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mergecore import arch_commands, plugins
from mergecore.console import say
from mergecore.errors import InputError
from mergecore.options import AsJson

app = typer.Typer(help="List and examine the installed plugins.", no_args_is_help=True)


@app.command("list")
def plugins_list(as_json: AsJson = False) -> None:
    """List every installed plugin with its distribution."""
    found = [plugin for kind in plugins.KINDS for plugin in plugins.listed(kind)]
    _print_plugins(found, as_json, with_kind=True)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Import every plugin, report broken ones, and show how to fix them."""
    from mergecore import doctor, views

    findings = doctor.examine()
    views.print_findings(findings, as_json)
    if any(finding.bad for finding in findings):
        raise typer.Exit(1)


def new(
    kind: Annotated[str, typer.Argument(help="method, arch, hooks, postprocessor, or command.")],
    name: Annotated[str, typer.Argument(help="Lowercase letters, digits, and _.")],
    into: Annotated[Path, typer.Option(help="Folder to create the package in.")] = Path("."),
    model: Annotated[str, typer.Option("--from", help="For arch: a model folder to infer the weights from.")] = "",
) -> None:
    """Create a package for a new plugin. It installs and passes its tests, ready for you to fill in."""
    from mergecore.scaffold import write_package

    if model and kind != "arch":
        raise InputError(f"--from is only for architectures; remove it from mergecore new {kind}")
    for path in write_package(kind, name, into, arch_commands.inferred_from(model) if model else None):
        print(path)
    say(f"next: pip install -e {into / name}")


def print_kind(kind: str, as_json: bool) -> None:
    """Print the plugins of one kind for its `list` command."""
    found = plugins.listed(kind)
    _print_plugins(found, as_json, with_kind=False)
    if not found and not as_json:
        say(f"no {kind} are installed; try: pip install {next(iter(plugins.known_plugins()[kind].values()))}")


def _print_plugins(found: list[plugins.Plugin], as_json: bool, with_kind: bool) -> None:
    if as_json:
        keys = ("kind", "name", "distribution", "version", "value")
        print(json.dumps([{key: getattr(plugin, key) for key in keys} for plugin in found], indent=2))
        return
    width = max((len(plugin.name) for plugin in found), default=0)
    for plugin in found:
        kind = f"{plugin.kind:15}" if with_kind else ""
        print(f"{kind}{plugin.name:{width}}  {plugin.distribution} {plugin.version}")
