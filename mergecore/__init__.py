"""Merge pretrained models in weight space: `mergecore.run(recipe, out)`, `mergecore.plan(recipe)` and friends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from mergecore.planning import Plan

__version__ = "0.1.0"


def plan(recipe: Path | str | Mapping[str, Any] | Sequence[Mapping[str, Any]], *, memory: int | None = None) -> Plan:
    """Check a recipe against the models' headers.

    Args:
        recipe: path of a YAML file, a mapping with the same keys, or a list of such mappings.
        memory: bytes that may be in flight; default: half of what is free.

    Returns:
        The plan; `close()` it when done.

    Raises:
        mergecore.errors.InputError: whatever is wrong, as one sentence.
    """
    from mergecore.discovery import Registry
    from mergecore.models import local_definitions
    from mergecore.planning import make_plan
    from mergecore.recipes import load_recipe
    from mergecore.running import spare_memory

    registry = Registry(_warn, local_definitions([]))
    return make_plan(load_recipe(recipe), registry, memory or spare_memory())


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
    """Merge a recipe into the folder `out`, as ``mergecore run`` does; a run that was cut short is gone on with.

    Args:
        recipe: path of a YAML file or of an earlier result's mergecore.lock.json, a mapping with the same keys, or a
            list of such mappings.
        out: the folder to make.
        memory: bytes that may be in flight; default: half of what is free.
        workers: threads; default: one for each core.
        shard_bytes: largest weight file; default 5 GB, or what the lock says.
        executor: name of an installed executor.
        force: replace `out` if it exists.
        allow_nonfinite: write tensors with NaN or infinity too, with a warning, instead of stopping there.
        hash_inputs: put the SHA-256 of the models' weight files into the lock, whatever that takes.
        keep: names of stages of the recipe that are written too, each into the folder ``OUT-NAME``.
        without: names of post-processors that are left out, such as ``health``.

    Raises:
        mergecore.errors.MergecoreError: InputError for something to mend, RunError for a run that failed.
    """
    from mergecore.discovery import Registry
    from mergecore.models import local_definitions
    from mergecore.planning import make_plan
    from mergecore.recipes import load_recipe
    from mergecore.running import Listener, Options, available_cores, run_plan, spare_memory

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
    made = make_plan(load_recipe(recipe), registry, options.memory, keep)
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
    """Merge tensors in memory with an installed method; see `mergecore.inmemory.merge_tensors`."""
    from mergecore import inmemory
    from mergecore.discovery import find, load

    found = load(find("methods", method))
    return inmemory.merge_tensors(tensors, found, parameters or {}, base=base, name=name, seed=seed)


def merge_state_dicts(
    models: Sequence[Mapping[str, Tensor]],
    method: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    base: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Merge state dicts in memory with an installed method; see `mergecore.inmemory.merge_state_dicts`."""
    from mergecore import inmemory
    from mergecore.discovery import find, load

    found = load(find("methods", method))
    return inmemory.merge_state_dicts(models, found, parameters or {}, base=base, seed=seed)


def _warn(text: str) -> None:
    import warnings

    warnings.warn(text, stacklevel=3)
