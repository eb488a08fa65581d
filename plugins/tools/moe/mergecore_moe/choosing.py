"""Which family the mixture is written as: the first that fits, or one line for each that says why it does not."""

from __future__ import annotations

from mergecore.discovery import entry_points
from mergecore.errors import PluginError
from mergecore_moe.config import Config
from mergecore_moe.dense import Dense
from mergecore_moe.families import Family

GROUP = "moe_families"
"""The entry-point group ``mergecore.v1.moe_families``: classes derived from `Family`."""

ORDER = ("Mixtral", "DeepSeek MoE", "Qwen MoE", "Qwen3 MoE", "ERNIE 4.5 MoE", "FlexOlmo", "Granite MoE")
"""Who is asked first; families of other packages come after these."""


def families() -> list[Family]:
    """Every installed family, in the order in which they are asked.

    Raises:
        PluginError: one cannot be imported, or is no family.
    """
    found = []
    for name in dict.fromkeys(plugin.name for plugin in entry_points.listed(GROUP)):
        plugin = entry_points.find(GROUP, name)
        kind = entry_points.load(plugin)
        if not (isinstance(kind, type) and issubclass(kind, Family)):
            raise PluginError(f"{plugin} is no family of mixtures: pip uninstall {plugin.distribution}")
        found.append(kind())
    return sorted(found, key=lambda item: ORDER.index(item.name) if item.name in ORDER else len(ORDER))


def choose(dense: Dense, config: Config) -> Family:
    """The first family that the config allows and that can be made of the dense model.

    Raises:
        RecipeError: there is none.
    """
    every = families()
    place = config.place.get("architecture") if config.architecture else None
    wanted = _plain(config.architecture or "")
    named = [family for family in every if _plain(family.name).startswith(wanted)]
    if not named:
        assert place is not None
        raise place.error(f"no family is called so; there are {', '.join(family.name for family in every)}")
    reasons = {family.name: family.refusal(dense, config) for family in named}
    fitting = next((family for family in named if not reasons[family.name]), None)
    if fitting is None:
        lines = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
        raise (place or config.place.child("base_model")).error(f"no family of mixtures fits: {lines}")
    return fitting


def _plain(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())
