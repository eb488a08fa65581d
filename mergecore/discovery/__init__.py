"""Find, load, check, and run plugins, and create new ones."""

from mergecore.discovery.doctor import Finding, examine_plugins
from mergecore.discovery.entry_points import (
    KINDS,
    Plugin,
    find_plugin,
    installed_plugins,
    known_plugins,
    list_plugins,
    load_plugin,
    not_installed,
    plugin_summary,
)
from mergecore.discovery.parameter_levels import (
    installed_parameters,
    known_parameters,
    missing,
    parse_level,
    value_for,
)
from mergecore.discovery.parameters import (
    NO_VALUE,
    Parameter,
    Rule,
    Setting,
    convert,
    declared,
)
from mergecore.discovery.postprocessors import (
    load_postprocessors,
    run_after_publish,
    run_for_stage,
    run_postprocessor,
)
from mergecore.discovery.recordings import recorded_operations
from mergecore.discovery.registry import Registry
from mergecore.discovery.scaffold import Template, write_package

__all__ = [
    "KINDS",
    "NO_VALUE",
    "Finding",
    "Parameter",
    "Plugin",
    "Registry",
    "Rule",
    "Setting",
    "Template",
    "convert",
    "declared",
    "examine_plugins",
    "find_plugin",
    "installed_parameters",
    "installed_plugins",
    "known_parameters",
    "known_plugins",
    "list_plugins",
    "load_plugin",
    "load_postprocessors",
    "missing",
    "not_installed",
    "parse_level",
    "plugin_summary",
    "recorded_operations",
    "run_after_publish",
    "run_for_stage",
    "run_postprocessor",
    "value_for",
    "write_package",
]
