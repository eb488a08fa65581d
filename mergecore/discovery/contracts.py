"""Check that the object behind an entry point has the interface required of its kind of plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pluggy

from mergecore import hookspecs
from mergecore.api import Base, DeltaMethod, Evaluator, Tile, WeightMethod
from mergecore.discovery.parameters import declared


def check_contract(kind: str, plugin: Any) -> None:
    """Raise TypeError (PluginValidationError from pluggy for hooks) if a plugin does not match its interface."""
    if kind in CHECKS:
        CHECKS[kind](plugin)


def _check_method(method: Any) -> None:
    if not (isinstance(method, type) and issubclass(method, (WeightMethod, DeltaMethod))):
        raise TypeError("a method must be a subclass of WeightMethod or DeltaMethod")
    if not (isinstance(method.tile, Tile) and isinstance(method.base, Base)):
        raise TypeError("'tile' must be a Tile, and 'base' must be a Base")
    declared(method)
    if not method.__doc__ or method.__doc__.startswith(f"{method.__name__}("):  # the default docstring of a dataclass
        raise TypeError("a method needs a docstring that describes it")


def _check_evaluator(evaluator: Any) -> None:
    if not (isinstance(evaluator, type) and issubclass(evaluator, Evaluator)):
        raise TypeError("an evaluator must be a subclass of Evaluator")
    declared(evaluator)


def _has(*names: str) -> Callable[[Any], None]:
    def check(plugin: Any) -> None:
        for name in names:
            if not callable(getattr(plugin, name, None)):
                raise TypeError(f"it has no method {name}()")

    return check


def _check_hooks(module: Any) -> None:
    manager = pluggy.PluginManager("mergecore")
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    manager.check_pending()


def _check_command(command: Any) -> None:
    if not callable(command):  # a typer.Typer is callable too
        raise TypeError("a command must be a function or a typer.Typer")
    if not (getattr(command, "info", None) or command.__doc__):
        raise TypeError("a command needs a docstring that describes it")


CHECKS: Mapping[str, Callable[[Any], None]] = {
    "methods": _check_method,
    "readers": _has("read", "close"),
    "writers": _has("write", "sync", "finish", "close"),
    "executors": _has("run"),
    "postprocessors": _has("run"),
    "evaluators": _check_evaluator,
    "optimizers": _has("ask", "tell"),
    "commands": _check_command,
    "hooks": _check_hooks,
}
