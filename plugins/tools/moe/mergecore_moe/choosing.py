"""Choose the family of the mixture: the first one that fits. If none does, report the reason for each."""

from __future__ import annotations

from mergecore.api import PluginError
from mergecore.tooling import find_plugin, list_plugins, load_plugin
from mergecore_moe.config import Config
from mergecore_moe.dense import Dense
from mergecore_moe.families import Family

GROUP = "moe_families"
"""The entry-point group ``mergecore.v1.moe_families``, for subclasses of `Family`."""

ORDER = ("Mixtral", "DeepSeek MoE", "Qwen MoE", "Qwen3 MoE", "ERNIE 4.5 MoE", "FlexOlmo", "Granite MoE")
"""Order in which the families are tried. Families from other packages come last."""


def families() -> list[Family]:
    """Return all installed families, in the order in which they are tried.

    Raises:
        PluginError: A plugin cannot be imported, or is not a family.
    """
    found = []
    for name in dict.fromkeys(plugin.name for plugin in list_plugins(GROUP)):
        plugin = find_plugin(GROUP, name)
        kind = load_plugin(plugin)
        if not (isinstance(kind, type) and issubclass(kind, Family)):
            raise PluginError(f"{plugin} is not a mixture family: pip uninstall {plugin.distribution}")
        found.append(kind())
    return sorted(found, key=lambda item: ORDER.index(item.name) if item.name in ORDER else len(ORDER))


def choose(dense: Dense, config: Config) -> Family:
    """Return the first family that the config allows and that supports the dense model.

    Raises:
        RecipeError: There is none.
    """
    every = families()
    place = config.place.get("architecture") if config.architecture else None
    wanted = _plain(config.architecture or "")
    named = [family for family in every if _plain(family.name).startswith(wanted)]
    if not named:
        assert place is not None
        raise place.error(f"unknown family; use one of {', '.join(family.name for family in every)}")
    reasons = {family.name: family.refusal(dense, config) for family in named}
    fitting = next((family for family in named if not reasons[family.name]), None)
    if fitting is None:
        lines = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
        raise (place or config.place.child("base_model")).error(f"no mixture family fits: {lines}")
    return fitting


def _plain(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())
