"""Commands of installed packages beside core's own: listed without an import, imported when one is called."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from mergecore import plugins
from mergecore.errors import PluginError


class Commands(TyperGroup):
    """Core's commands, then those of the entry-point group ``mergecore.v1.commands``."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return own + [plugin.name for plugin in _installed() if plugin.name not in own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        installed = {plugin.name: plugin for plugin in _installed()}
        return _Deferred(installed[cmd_name]) if own is None and cmd_name in installed else own

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            message = plugins.not_installed("commands", args[0], self.list_commands(ctx))
            raise PluginError(message)
        return super().resolve_command(ctx, args)


def _installed() -> list[plugins.Plugin]:
    return plugins.listed("commands")


class _Deferred(TyperCommand):
    """The place of a package's command in the help; becomes that command once it is called."""

    def __init__(self, plugin: plugins.Plugin) -> None:
        super().__init__(plugin.name, callback=None, help=plugins.summary(plugin), rich_markup_mode=None)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        name = str(self.name)
        real = command(name, plugins.load(plugins.find("commands", name)))
        return real.make_context(info_name, args, parent, **extra)


def command(name: str, plugin: Any) -> Any:
    """What a package registers, ready to be called: a ``typer.Typer``, or a function whose arguments typer reads."""
    outer = typer.Typer(rich_markup_mode=None, add_completion=False)
    outer.callback()(lambda: None)
    if isinstance(plugin, typer.Typer):
        outer.add_typer(plugin, name=name)
    else:
        outer.command(name)(plugin)
    return get_group(outer).commands[name]
