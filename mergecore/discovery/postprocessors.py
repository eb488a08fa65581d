"""Post-processors: which there are, in which order, and whose fault it is when one fails."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Collection

from mergecore.api import MergedModel, PostProcessor
from mergecore.discovery.entry_points import cure
from mergecore.discovery.registry import Registry
from mergecore.errors import MergecoreError, PluginError, RunError


def load_postprocessors(
    registry: Registry, warn: Callable[[str], None] | None, without: Collection[str] = ()
) -> dict[str, PostProcessor]:
    """Every post-processor there is but `without`, each after those that it names; a broken one is left out.

    `warn` hears of that; None where another call says so.
    """
    found: dict[str, PostProcessor] = {}
    for name in (name for name in registry.names("postprocessors") if name not in without):
        try:
            found[name] = registry.provide("postprocessors", name)()
        except Exception as error:
            if warn:
                registry.leave_out(f"post-processor {name!r} is left out of this run: {error}")
    if warn and "config" not in found:
        warn("no config.json will be written: pip install mergecore-config")
    order = graphlib.TopologicalSorter({name: set(item.after) & set(found) for name, item in found.items()})
    try:
        return {name: found[name] for name in order.static_order()}
    except graphlib.CycleError as error:
        circle = ", ".join(map(repr, dict.fromkeys(error.args[1])))
        raise PluginError(f"the post-processors {circle} each want to run after the other: uninstall one") from None


def describe(model: MergedModel, registry: Registry) -> None:
    """Write all but the weights of a stage into its folder, which is made, for what is merged from it to look at."""
    try:
        model.folder.mkdir()
        for name, postprocessor in load_postprocessors(registry, None).items():  # the run says what it lacks
            if postprocessor.of_stages:
                finish(name, postprocessor, model, registry)
    except OSError as error:
        raise RunError(f"{error.filename or model.folder}: {error.strerror or error}") from error


def finish(name: str, postprocessor: PostProcessor, model: MergedModel, registry: Registry) -> None:
    """Run a post-processor.

    Raises:
        RunError: it failed; its distribution is named.
    """
    try:
        postprocessor.run(model)
    except (OSError, MergecoreError):
        raise
    except Exception as error:
        owner = registry.owner("postprocessors", name)
        raise RunError(f"{owner} failed ({type(error).__name__}: {error}): {cure(owner, error)}") from error
