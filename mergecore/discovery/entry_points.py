"""Plugins, which are listed without importing them and loaded by name with stevedore."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, distributions, metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mergecore.errors import PluginError, closest, printable

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
    "kernels",
)
"""Core's entry-point groups, without the prefix. Tools have their own groups, such as ``moe_families``."""
DISABLE = "MERGECORE_DISABLE"
"""The environment variable that lists plugins and distributions to never load, separated by commas."""


@dataclass(frozen=True)
class Plugin:
    """An installed entry point and the distribution that provides it."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind.removesuffix('s')} {self.name!r} from {self.distribution} {self.version}"

    @property
    def labels(self) -> set[str]:
        """The names that match this plugin in `MERGECORE_DISABLE`."""
        return {normalized_name(self.name), normalized_name(self.distribution)}


class BrokenPlugin(PluginError):
    """An installed plugin that cannot be used, with the cause and the command that most likely fixes it."""

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause}: {cure}")
        self.cause, self.cure = printable(cause), cure


def list_plugins(kind: str) -> list[Plugin]:
    """Return every enabled plugin of a kind, sorted by name, including duplicates. Import nothing."""
    off = disabled()
    return [plugin for plugin in installed_plugins(kind) if not off & plugin.labels] if off else installed_plugins(kind)


def installed_plugins(kind: str) -> list[Plugin]:
    """Return every installed plugin of a kind, sorted by name, including disabled ones."""
    stamps = tuple((folder, os.stat(folder or ".").st_mtime_ns) for folder in sys.path if os.path.exists(folder or "."))
    return list(_scanned(stamps).get(kind, ()))


def disabled() -> set[str]:
    """Return the names in `MERGECORE_DISABLE`, normalized with `normal`."""
    return {normalized_name(name.strip()) for name in os.environ.get(DISABLE, "").split(",") if name.strip()}


def normalized_name(name: str) -> str:
    """Normalize a name like pip does: ``My_Package`` becomes ``my-package``."""
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=1)
def _scanned(stamps: tuple[tuple[str, int], ...]) -> Mapping[str, tuple[Plugin, ...]]:
    """Return all plugins by kind. The result is cached until a folder in sys.path changes.

    Each distribution is read only once. `importlib.metadata.entry_points` would read all of them for every kind, which
    took most of the time of a small run with hundreds of packages installed.
    """
    found: dict[str, list[Plugin]] = {}
    seen: set[str] = set()
    for distribution in distributions():
        if PREFIX not in (distribution.read_text("entry_points.txt") or ""):
            continue
        about = distribution.metadata  # parsed again on every access
        if about["Name"] in seen:
            continue
        seen.add(about["Name"])  # it hides distributions with the same name later on the path
        for point in distribution.entry_points:
            kind = point.group.removeprefix(PREFIX)
            if point.group.startswith(PREFIX):
                found.setdefault(kind, []).append(
                    Plugin(kind, point.name, point.value, about["Name"], about["Version"])
                )
    return {kind: tuple(sorted(items, key=lambda item: (item.name, item.value))) for kind, items in found.items()}


def plugin_summary(plugin: Plugin) -> str:
    """Return the one-line summary of a plugin's distribution."""
    return metadata(plugin.distribution)["Summary"] or str(plugin)


def find_plugin(kind: str, name: str, prefer: Sequence[str] = ()) -> Plugin:
    """Find the installed plugin with this kind and name. If several have the name, use the first one in `prefer`.

    Raises:
        PluginError: if there is no such plugin (the message says what to install), or more than one.
    """
    plugins = list_plugins(kind)
    found = [plugin for plugin in plugins if plugin.name == name]
    if len(found) > 1:
        owners = [normalized_name(plugin.distribution) for plugin in found]
        chosen = next((owners.index(normalized_name(item)) for item in prefer if normalized_name(item) in owners), None)
        if chosen is not None:
            return found[chosen]
        both = " and ".join(f"{plugin.distribution} {plugin.version}" for plugin in found)
        choice = f", or choose one in the recipe with prefer: [{found[0].distribution}]"
        raise PluginError(
            f"{kind.removesuffix('s')} {name!r} is provided by {both}: pip uninstall {found[-1].distribution}"
            f"{choice if kind not in ('commands', 'hooks') else ''}"
        )
    if not found:
        if any(plugin.name == name for plugin in installed_plugins(kind)):
            raise PluginError(f"{kind.removesuffix('s')} {name!r} is disabled by {DISABLE}; remove its name from there")
        raise PluginError(not_installed(kind, name, [plugin.name for plugin in plugins]))
    return found[0]


def not_installed(kind: str, name: str, present: list[str]) -> str:
    """Return the error message for a missing plugin, ending with the command that installs it if known."""
    known = known_plugins().get(kind, {})
    label = f"{kind.removesuffix('s')} {name!r} is not installed"
    if name in known:
        return f"{label}: pip install {known[name]}"
    close = closest(name, [*present, *known])
    if close is None:
        return f"{label}; installed: {', '.join(present) or 'none'}"
    cure = "" if close in present else f" pip install {known[close]}"
    return f"{label}; did you mean {close!r}?{cure}"


@lru_cache(maxsize=1)
def known_plugins() -> Mapping[str, Mapping[str, str]]:
    """Return the distributions of first-party plugins by kind and name. The file is generated by ``./dev sync``."""
    text = files("mergecore.discovery").joinpath("known.json").read_text("utf-8")
    known: Mapping[str, Mapping[str, str]] = json.loads(text)
    return known


def load_plugin(plugin: Plugin) -> Any:
    """Import a plugin and return its object. Check that it has the interface required of its kind.

    Raises:
        BrokenPlugin: if the import or the check fails. The message names the distribution to fix.
    """
    from stevedore.named import NamedExtensionManager

    from mergecore.discovery.contracts import check_contract

    failures: list[BaseException] = []

    class OneOfOne(NamedExtensionManager):  # type: ignore[misc,type-arg,unused-ignore]
        """Loads only this entry point, even if another distribution has one with the same name."""

        def list_entry_points(self) -> list[EntryPoint]:
            return [EntryPoint(plugin.name, plugin.value, PREFIX + plugin.kind)]

    def failed(_manager: Any, _point: Any, error: BaseException) -> None:
        failures.append(error)

    try:
        manager = OneOfOne(PREFIX + plugin.kind, [plugin.name], on_load_failure_callback=failed)
        loaded = [extension.plugin for extension in manager]
        for item in loaded:
            check_contract(plugin.kind, item)
    except (Exception, SystemExit) as error:  # stevedore does not catch AssertionError and SystemExit
        failures.append(error)
    if failures:
        cause = f"{type(failures[0]).__name__}: {failures[0]}".rstrip(": ")
        raise BrokenPlugin(f"{plugin} cannot be used ({cause})", suggest_fix(plugin, failures[0]))
    return loaded[0]


def suggest_fix(plugin: Plugin, error: BaseException) -> str:
    """Return the command that most likely fixes a plugin that failed to import."""
    if plugin.value == plugin.distribution and plugin.value.endswith(".py"):  # a file given on the command line
        return f"fix {plugin.value}"
    if isinstance(error, ModuleNotFoundError) and error.name and not plugin.value.startswith(error.name):
        return f"pip install {error.name.split('.')[0]}"
    return f"pip install --upgrade {plugin.distribution}, or pip uninstall {plugin.distribution}"


def architecture_file(plugin: Plugin) -> Path:
    """Return the JSON file of an architecture entry point ``package:file`` without importing the package."""
    package, _, file = plugin.value.partition(":")
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / file).is_file():
            return path
    raise BrokenPlugin(f"{plugin}: {plugin.value} does not exist", f"pip install --upgrade {plugin.distribution}")


def architecture_definition(plugin: Plugin) -> Mapping[str, Any]:
    """Return the parsed JSON of an architecture entry point."""
    path = architecture_file(plugin)
    try:
        definition: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        cause = f"{path}: {plugin} cannot be parsed as JSON ({error})"
        raise BrokenPlugin(cause, f"pip install --upgrade {plugin.distribution}") from None
    return definition
