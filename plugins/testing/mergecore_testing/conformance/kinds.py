"""The checks for every kind of plugin, and how plugins are loaded for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergecore.api import Method
from mergecore.discovery import entry_points
from mergecore_testing.conformance import (
    architectures,
    bits,
    commands,
    declarations,
    evaluators,
    executors,
    hooks,
    optimizers,
    postprocessors,
    readers,
    values,
    writers,
)
from mergecore_testing.conformance.subjects import Check, Subject

CHECKS: Mapping[str, tuple[Check, ...]] = {
    "methods": (
        declarations.check_is_a_method,
        declarations.check_documented,
        values.check_shape_and_dtype_kept,
        values.check_numbers_of_models,
        values.check_ends_of_ranges_stay_finite,
        values.check_zeros_and_opposites_stay_finite,
        values.check_zero_deltas_give_the_base,
        values.check_nan_shows,
        bits.check_inputs_unchanged,
        bits.check_only_named_parameters_prepare,
        bits.check_randomness,
        bits.check_tiles_change_no_bit,
        bits.check_order_of_tiles_changes_no_bit,
        bits.check_threads_change_no_bit,
    ),
    "architectures": (
        architectures.check_follows_the_format,
        architectures.check_knows_its_model,
        architectures.check_merges_every_tensor,
        architectures.check_keeps_the_first_layers,
    ),
    "readers": (
        readers.check_reads_every_dtype_at_any_place,
        readers.check_reads_from_threads,
        readers.check_opens_again_in_another_process,
        readers.check_refuses_what_it_cannot_read,
        readers.check_refuses_what_is_cut_short,
    ),
    "writers": (
        writers.check_pieces_come_in_any_order,
        writers.check_what_was_synced_stays,
        writers.check_small_shards_give_several_files,
        writers.check_places_are_where_tensors_are,
    ),
    "executors": (
        executors.check_same_bytes_as_threads,
        executors.check_tells_of_every_byte,
        executors.check_an_error_ends_the_run,
    ),
    "postprocessors": (
        postprocessors.check_its_order_can_be_read,
        postprocessors.check_leaves_the_weights_and_the_models_alone,
        postprocessors.check_runs_again,
    ),
    "evaluators": (evaluators.check_says_what_it_measures,),
    "optimizers": (
        optimizers.check_asks_for_points_of_the_cube,
        optimizers.check_seeds_decide_the_points,
        optimizers.check_goes_on_after_failures,
    ),
    "hooks": (
        hooks.check_every_hook_is_marked,
        hooks.check_leaves_other_plugins_to_others,
        hooks.check_the_recipe_stays_as_it_is,
        hooks.check_watches_a_run,
    ),
    "commands": (
        commands.check_starts_without_torch,
        commands.check_help_works,
        commands.check_refuses_with_a_sentence,
    ),
}
"""Checks for every plugin, by kind."""


def loaded(kind: str, name: str, distribution: str | None = None) -> Any:
    """Load an installed entry point. For an architecture, return the content of its JSON.

    Args:
        kind, name: kind and name of the plugin.
        distribution: distribution to use if several have a plugin of this name.

    Raises:
        mergecore.errors.PluginError: the plugin does not exist or cannot be loaded.
    """
    found = entry_points.find_plugin(kind, name, [distribution] if distribution else [])
    return entry_points.architecture_definition(found) if kind == "architectures" else entry_points.load_plugin(found)


def apply(check: Check, subject: Subject) -> None:
    """Run one check on a plugin. Methods are passed as classes and use one torch thread, like in the executor.

    Raises:
        AssertionError: the check failed. The message says what is wrong.
    """
    if isinstance(subject.loaded, type) and issubclass(subject.loaded, Method):
        with bits.threads(1):
            check(subject.loaded)
    else:
        check(subject)
