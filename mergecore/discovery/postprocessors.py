"""Load post-processors, sort them, and run them. Failures are reported with the plugin that caused them."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Collection
from pathlib import Path

from mergecore.api import MergedModel, PostProcessor
from mergecore.discovery.entry_points import suggest_fix
from mergecore.discovery.registry import Registry
from mergecore.errors import MergecoreError, PluginError, RunError


def load_postprocessors(
    registry: Registry, warn: Callable[[str], None] | None, without: Collection[str] = ()
) -> dict[str, PostProcessor]:
    """Load all post-processors except `without`, in dependency order. Skip broken ones.

    `warn` is called for each problem. Pass None to skip warnings that another call already shows.
    """
    found: dict[str, PostProcessor] = {}
    for name in (name for name in registry.names("postprocessors") if name not in without):
        try:
            found[name] = registry.provide("postprocessors", name)()
        except Exception as error:
            if warn:
                registry.leave_out(f"skipping post-processor {name!r} in this run: {error}")
    if warn and "config" not in found:
        warn("no config.json will be written: pip install mergecore-config")
    order = graphlib.TopologicalSorter({name: set(item.after) & set(found) for name, item in found.items()})
    try:
        return {name: found[name] for name in order.static_order()}
    except graphlib.CycleError as error:
        circle = ", ".join(map(repr, dict.fromkeys(error.args[1])))
        raise PluginError(f"the post-processors {circle} must each run after the others; uninstall one") from None


def run_for_stage(model: MergedModel, registry: Registry) -> None:
    """Create the folder of a stage and write all files except the weights, for the merges that use the stage."""
    try:
        model.folder.mkdir()
        for name, postprocessor in load_postprocessors(registry, None).items():  # the run itself shows the warnings
            if postprocessor.of_stages:
                run_postprocessor(name, postprocessor, model, registry)
    except OSError as error:
        raise RunError(f"{error.filename or model.folder}: {error.strerror or error}") from error


def run_postprocessor(name: str, postprocessor: PostProcessor, model: MergedModel, registry: Registry) -> None:
    """Run a post-processor.

    Raises:
        RunError: if it fails. The message names its distribution.
    """
    try:
        postprocessor.run(model)
    except (OSError, MergecoreError):
        raise
    except Exception as error:
        owner = registry.owner("postprocessors", name)
        raise RunError(f"{owner} failed ({type(error).__name__}: {error}): {suggest_fix(owner, error)}") from error


def run_after_publish(
    name: str, postprocessor: PostProcessor, model: MergedModel, registry: Registry, out: Path
) -> None:
    """Let a post-processor finish the published folder `out`. A failure is a warning, because the model is complete."""
    try:
        postprocessor.after_publish(model)
    except Exception as error:
        owner = registry.owner("postprocessors", name)
        model.warn(f"{out} is complete, but {owner} failed afterward ({type(error).__name__}: {error})")
    except BaseException:
        model.warn(f"{out} is complete; only {name!r}, which runs after the merge, was interrupted")
        raise
