"""Commands of other installed packages. They are listed without being imported and imported only when called."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from mergecore.discovery import Plugin, find_plugin, list_plugins, load_plugin, not_installed, plugin_summary
from mergecore.errors import PluginError


class Commands(TyperGroup):
    """Core's commands, followed by those in the entry-point group ``mergecore.v1.commands``."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return own + [plugin.name for plugin in _installed() if plugin.name not in own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        installed = {plugin.name: plugin for plugin in _installed()}
        return _Deferred(installed[cmd_name]) if own is None and cmd_name in installed else own

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            message = not_installed("commands", args[0], self.list_commands(ctx))
            raise PluginError(message)
        return super().resolve_command(ctx, args)


def _installed() -> list[Plugin]:
    return list_plugins("commands")


class _Deferred(TyperCommand):
    """Placeholder for a package's command in the help. It loads the real command when called."""

    def __init__(self, plugin: Plugin) -> None:
        super().__init__(plugin.name, callback=None, help=about(plugin), rich_markup_mode=None)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        name = str(self.name)
        real = command(name, load_plugin(find_plugin("commands", name)))
        return real.make_context(info_name, args, parent, **extra)


def about(plugin: Plugin) -> str:
    """Return a command's docstring, read from its source without importing it, or else its package's summary."""
    module, _, name = plugin.value.partition(":")
    try:
        tree = ast.parse(_source(module).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return plugin_summary(plugin)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or plugin_summary(plugin)
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            words = node.value.keywords if isinstance(node.value, ast.Call) else []
            found = [word.value.value for word in words if word.arg == "help" and isinstance(word.value, ast.Constant)]
            return str(found[0]) if found else plugin_summary(plugin)
    return plugin_summary(plugin)


def _source(module: str) -> Path:
    """Return the file of a module. Look up only the top-level package, because that imports nothing."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        raise OSError(f"no module named {top}")
    if not spec.submodule_search_locations:
        return Path(spec.origin)
    place = Path(spec.origin).parent.joinpath(*rest)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def command(name: str, plugin: Any) -> Any:
    """Return a callable command from the registered ``typer.Typer``, or from a function with typer annotations."""
    outer = typer.Typer(rich_markup_mode=None, add_completion=False)
    outer.callback()(lambda: None)
    if isinstance(plugin, typer.Typer):
        outer.add_typer(plugin, name=name)
    else:
        outer.command(name)(plugin)
    return get_group(outer).commands[name]
