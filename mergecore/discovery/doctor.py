"""The doctor: import every plugin separately, and report what is wrong and how to fix it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import entry_points

from mergecore.api import Kernels
from mergecore.definitions import parse_definition
from mergecore.discovery.entry_points import (
    KINDS,
    PREFIX,
    BrokenPlugin,
    Plugin,
    architecture_definition,
    list_plugins,
    load_plugin,
)
from mergecore.discovery.recordings import recorded_operations
from mergecore.discovery.registry import Registry
from mergecore.errors import MergecoreError
from mergecore.tracing import Untraceable

SLOW_SECONDS = 0.5
"""Import time in seconds, not counting torch, above which a plugin is reported as slow."""


@dataclass(frozen=True)
class Finding:
    """The status of one plugin: ok, FAIL, OLD, or SLOW, with the cause and the command that fixes it."""

    plugin: Plugin
    status: str
    cause: str = ""
    cure: str = ""

    @property
    def bad(self) -> bool:
        return self.status in ("FAIL", "OLD")


def examine_plugins() -> list[Finding]:
    """Examine every installed plugin, including those written for other API versions."""
    import torch  # noqa: F401  # so that its import is not counted against the first plugin

    kernels = _usable_kernels()
    findings = [_examine(plugin, kernels) for kind in KINDS for plugin in list_plugins(kind)]
    return [*_duplicates(findings), *_of_other_versions()]


def _examine(plugin: Plugin, kernels: Kernels | None) -> Finding:
    started = time.perf_counter()
    try:
        if plugin.kind == "architectures":
            parse_definition(plugin.name, architecture_definition(plugin), plugin.distribution)
        else:
            load_plugin(plugin)
    except BrokenPlugin as error:
        return Finding(plugin, "FAIL", error.cause, error.cure)
    except MergecoreError as error:
        return Finding(plugin, "FAIL", str(error), _replace(plugin))
    except Exception as error:
        return Finding(plugin, "FAIL", f"{type(error).__name__}: {error}", _replace(plugin))
    if plugin.kind == "kernels" and (reason := _unusable(plugin)):
        return Finding(plugin, "FAIL", reason, _replace(plugin))
    seconds = time.perf_counter() - started
    if seconds > SLOW_SECONDS:
        cause = f"importing it takes {seconds:.1f} s; move its imports into functions to keep start-up fast"
        return Finding(plugin, "SLOW", cause)
    return Finding(plugin, "ok", _by_torch(plugin, kernels) if plugin.kind == "methods" else "")


def _unusable(plugin: Plugin) -> str:
    """Return why the native code of a plugin does not load, or an empty string."""
    try:
        load_plugin(plugin)()
    except OSError as error:
        return str(error)
    return ""


def _usable_kernels() -> Kernels | None:
    """Return the native code that a run would use, or None. Broken ones have findings of their own."""
    return Registry(lambda _: None).kernels()


def _by_torch(plugin: Plugin, kernels: Kernels | None) -> str:
    """Return why torch computes a method although kernels are installed, or an empty string."""
    if kernels is None:
        return ""
    try:
        recorded_operations(load_plugin(plugin), kernels)
    except Untraceable as error:
        return f"computed by torch, not by the kernels: {error}"
    return ""


def _replace(plugin: Plugin) -> str:
    return f"pip install --upgrade {plugin.distribution}, or pip uninstall {plugin.distribution}"


def _duplicates(findings: list[Finding]) -> list[Finding]:
    counts = Counter((finding.plugin.kind, finding.plugin.name) for finding in findings)

    def judged(finding: Finding) -> Finding:
        plugin = finding.plugin
        if counts[plugin.kind, plugin.name] == 1:
            return finding
        others = [o.plugin.distribution for o in findings if o.plugin.name == plugin.name and o.plugin != plugin]
        cause = f"{plugin.name!r} is also provided by {' and '.join(others)}; a recipe must choose one with prefer"
        return Finding(plugin, "FAIL", cause, f"pip uninstall {plugin.distribution}")

    return [judged(finding) for finding in findings]


def _of_other_versions() -> list[Finding]:
    """Find plugins in groups such as ``mergecore.v0.methods``, which this version never loads."""
    findings = []
    for group in sorted(entry_points().groups):
        if group.startswith("mergecore.v") and not group.startswith(PREFIX):
            version, _, kind = group.removeprefix("mergecore.").partition(".")
            for point in entry_points(group=group):
                name, release = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
                plugin = Plugin(kind, point.name, point.value, name, release)
                cause = f"written for API {version}, but this is {PREFIX.split('.')[1]}; it is never loaded"
                findings.append(Finding(plugin, "OLD", cause, f"pip install --upgrade {name}"))
    return findings
