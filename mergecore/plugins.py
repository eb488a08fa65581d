"""Plugins: listed without importing them, and loaded by name with stevedore."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distributions, metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mergecore.errors import PluginError, nearest

PREFIX = "mergecore.v1."
KINDS = (
    "methods",
    "architectures",
    "readers",
    "writers",
    "executors",
    "postprocessors",
    "evaluators",
    "optimizers",
    "commands",
    "hooks",
)
"""The entry-point groups, without their prefix."""


@dataclass(frozen=True)
class Plugin:
    """An installed entry point and the distribution that brings it."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind.removesuffix('s')} {self.name!r} of {self.distribution} {self.version}"


def listed(kind: str) -> list[Plugin]:
    """Every installed plugin of a kind by name; nothing is imported. Duplicates are listed too."""
    stamps = tuple((folder, os.stat(folder or ".").st_mtime_ns) for folder in sys.path if os.path.exists(folder or "."))
    return list(_scanned(stamps)[kind])


@lru_cache(maxsize=1)
def _scanned(stamps: tuple[tuple[str, int], ...]) -> Mapping[str, tuple[Plugin, ...]]:
    """All plugins by kind; looked for once, and again when a folder of sys.path has changed.

    Each distribution is read once, where `importlib.metadata.entry_points` would read all of them for every kind: with
    hundreds of packages that was most of a small run's time.
    """
    found: dict[str, list[Plugin]] = {kind: [] for kind in KINDS}
    seen: set[str] = set()
    for distribution in distributions():
        if PREFIX not in (distribution.read_text("entry_points.txt") or ""):
            continue
        about = distribution.metadata  # parsed anew at every access
        if about["Name"] in seen:
            continue
        seen.add(about["Name"])  # what comes later on the path is hidden by it
        for point in distribution.entry_points:
            kind = point.group.removeprefix(PREFIX)
            if point.group.startswith(PREFIX) and kind in found:
                found[kind].append(Plugin(kind, point.name, point.value, about["Name"], about["Version"]))
    return {kind: tuple(sorted(items, key=lambda item: (item.name, item.value))) for kind, items in found.items()}


def summary(plugin: Plugin) -> str:
    """What a plugin's distribution says of itself in one line."""
    return metadata(plugin.distribution)["Summary"] or str(plugin)


def find(kind: str, name: str) -> Plugin:
    """The one installed plugin of this kind and name.

    Raises:
        PluginError: none (with what to install), or several.
    """
    plugins = listed(kind)
    found = [plugin for plugin in plugins if plugin.name == name]
    if len(found) > 1:
        owners = " and ".join(f"{plugin.distribution} {plugin.version}" for plugin in found)
        raise PluginError(
            f"{kind.removesuffix('s')} {name!r} comes from {owners}: pip uninstall {found[-1].distribution}"
        )
    if not found:
        raise PluginError(not_installed(kind, name, [plugin.name for plugin in plugins]))
    return found[0]


def not_installed(kind: str, name: str, installed: list[str]) -> str:
    """The sentence for a plugin that is not there, ending with the command that brings it, where known."""
    known = known_plugins().get(kind, {})
    label = f"{kind.removesuffix('s')} {name!r} is not installed"
    if name in known:
        return f"{label}: pip install {known[name]}"
    hint = nearest(name, [*installed, *known])
    close = hint.removeprefix("; did you mean ").rstrip("?").strip("'")
    if hint and close not in installed:
        return f"{label}{hint} pip install {known[close]}"
    return f"{label}{hint}" if hint else f"{label}; installed: {', '.join(installed) or 'none'}"


@lru_cache(maxsize=1)
def known_plugins() -> Mapping[str, Mapping[str, str]]:
    """First-party plugins by kind and name, with their distributions; written by ``./dev sync``."""
    text = files("mergecore").joinpath("known.json").read_text("utf-8")
    known: Mapping[str, Mapping[str, str]] = json.loads(text)
    return known


def load(plugin: Plugin) -> Any:
    """Import a plugin and return its object, checked to be what its kind asks for.

    Raises:
        PluginError: whatever the import or the check raised, with the distribution to mend.
    """
    from stevedore.named import NamedExtensionManager

    from mergecore.contracts import check

    failures: list[BaseException] = []

    def failed(_manager: Any, _point: Any, error: BaseException) -> None:
        failures.append(error)

    try:
        manager = NamedExtensionManager(PREFIX + plugin.kind, [plugin.name], on_load_failure_callback=failed)
        loaded = [extension.plugin for extension in manager]
        for item in loaded:
            check(plugin.kind, item)
    except (Exception, SystemExit) as error:  # stevedore lets AssertionError and SystemExit through
        failures.append(error)
    if failures:
        cause = f"{type(failures[0]).__name__}: {failures[0]}".rstrip(": ")
        raise PluginError(f"{plugin} cannot be used ({cause}): {cure(plugin, failures[0])}")
    return loaded[0]


def cure(plugin: Plugin, error: BaseException) -> str:
    """The command that most likely mends a plugin that failed to import."""
    if isinstance(error, ModuleNotFoundError) and error.name and not plugin.value.startswith(error.name):
        return f"pip install {error.name.split('.')[0]}"
    return f"pip install --upgrade {plugin.distribution}, or pip uninstall {plugin.distribution}"


def architecture_file(plugin: Plugin) -> Path:
    """The JSON file that an architecture entry point ``package:file`` names; the package is not imported."""
    package, _, file = plugin.value.partition(":")
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / file).is_file():
            return path
    raise PluginError(f"{plugin} names {plugin.value}, which is not there: pip install --upgrade {plugin.distribution}")


def architecture_definition(plugin: Plugin) -> Mapping[str, Any]:
    """The parsed JSON of an architecture entry point."""
    path = architecture_file(plugin)
    try:
        definition: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PluginError(
            f"{path}: {plugin} is not valid JSON ({error}): pip install --upgrade {plugin.distribution}"
        ) from None
    return definition
