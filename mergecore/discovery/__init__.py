"""Plugins: finding, loading, checking, and running them, and making new ones."""

from mergecore.discovery.doctor import Finding, examine
from mergecore.discovery.entry_points import KINDS, Plugin, find, known_plugins, listed, load, not_installed, summary
from mergecore.discovery.parameters import (
    NO_VALUE,
    Parameter,
    Setting,
    convert,
    declared,
    missing,
    parse_level,
    value_for,
)
from mergecore.discovery.postprocessors import describe, finish, load_postprocessors
from mergecore.discovery.registry import Registry
from mergecore.discovery.scaffold import write_package

__all__ = [
    "Finding",
    "KINDS",
    "NO_VALUE",
    "Parameter",
    "Plugin",
    "Registry",
    "Setting",
    "convert",
    "declared",
    "describe",
    "examine",
    "find",
    "finish",
    "known_plugins",
    "listed",
    "load",
    "load_postprocessors",
    "missing",
    "not_installed",
    "parse_level",
    "summary",
    "value_for",
    "write_package",
]
