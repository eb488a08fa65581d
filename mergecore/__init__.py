"""Merge pretrained models in weight space, with `mergecore.run(recipe, out)`, `mergecore.plan(recipe)`, and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from mergecore.planning import Plan

__version__ = "0.1.0"


def plan(recipe: Path | str | Mapping[str, Any] | Sequence[Mapping[str, Any]], *, memory: int | None = None) -> Plan:
    """Check a recipe against the headers of its models.

    Args:
        recipe: path to a YAML file, a mapping with the same keys, or a list of such mappings.
        memory: memory budget in bytes. Defaults to half of the free memory.

    Returns:
        The plan. Call its `close()` method when you are done with it.

    Raises:
        mergecore.errors.InputError: if the recipe, a model, or a plugin is invalid.
    """
    from mergecore.definitions import local_definitions
    from mergecore.discovery import Registry
    from mergecore.planning import make_plan
    from mergecore.recipes import load_recipe
    from mergecore.running import spare_memory

    _check_counts(memory=memory)
    registry = Registry(_warn, local_definitions([]))
    return make_plan(load_recipe(recipe, registry), registry, memory or spare_memory())


def run(
    recipe: Path | str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    out: Path | str,
    *,
    memory: int | None = None,
    workers: int | None = None,
    shard_bytes: int | None = None,
    executor: str = "threads",
    force: bool = False,
    allow_nonfinite: bool = False,
    hash_inputs: bool = False,
    keep: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Path:
    """Merge a recipe into the folder `out`, like ``mergecore run``. Resume an interrupted run if there is one.

    Args:
        recipe: path to a YAML file or to the mergecore.lock.json of an earlier result, a mapping with the same keys,
            or a list of such mappings.
        out: output folder to create.
        memory: memory budget in bytes. Defaults to half of the free memory.
        workers: number of threads. Defaults to one per core.
        shard_bytes: maximum size of a weight file. Defaults to the size in the lock file, or 5 GB.
        executor: name of an installed executor.
        force: replace `out` if it already exists.
        allow_nonfinite: write tensors that contain NaN or infinity with a warning instead of stopping.
        hash_inputs: always record the SHA-256 of the input weight files in the lock file, even if that takes long.
        keep: names of stages to write as well, each to its own folder ``OUT-NAME``.
        without: names of post-processors to skip, such as ``health``.

    Raises:
        mergecore.errors.MergecoreError: `InputError` if you need to fix something first, `RunError` if the run fails.
    """
    from mergecore.definitions import local_definitions
    from mergecore.discovery import Registry
    from mergecore.errors import InputError
    from mergecore.planning import make_plan
    from mergecore.recipes import load_recipe
    from mergecore.running import Listener, Options, available_cores, run_plan, spare_memory

    _check_counts(memory=memory, workers=workers, shard_bytes=shard_bytes)
    if not isinstance(out, (str, Path)):
        raise InputError(f"out must be the path of a folder, not {out!r}")
    options = Options(
        memory=memory or spare_memory(),
        workers=workers or available_cores(),
        shard_bytes=shard_bytes or 0,
        executor=executor,
        force=force,
        allow_nonfinite=allow_nonfinite,
        hash_inputs=hash_inputs,
        without=tuple(without),
    )
    registry = Registry(_warn, local_definitions([]))
    made = make_plan(load_recipe(recipe, registry), registry, options.memory, keep)
    try:
        return run_plan(made, Path(out), registry, options, Listener(_warn))
    finally:
        made.close()


def merge_tensors(
    tensors: Sequence[Tensor],
    method: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    base: int | None = None,
    name: str = "tensor",
    seed: int = 0,
) -> Tensor:
    """Merge tensors in memory with an installed method. See `mergecore.inmemory.merge_tensors`."""
    from mergecore import inmemory

    return inmemory.merge_tensors(
        tensors, inmemory.find_method(method), parameters or {}, base=base, name=name, seed=seed
    )


def merge_state_dicts(
    models: Sequence[Mapping[str, Tensor]],
    method: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    base: int | None = None,
    seed: int = 0,
    allow_nonfinite: bool = False,
) -> dict[str, Tensor]:
    """Merge state dicts in memory with an installed method. See `mergecore.inmemory.merge_state_dicts`."""
    from mergecore import inmemory

    found = inmemory.find_method(method)
    return inmemory.merge_state_dicts(
        models, found, parameters or {}, base=base, seed=seed, allow_nonfinite=allow_nonfinite
    )


def _check_counts(**values: int | None) -> None:
    """Raise `InputError` if a number that the caller can set is not a whole number above 0."""
    from mergecore.errors import InputError

    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")


def _warn(text: str) -> None:
    import warnings

    warnings.warn(text, stacklevel=3)
