"""The checks of a folder. A failed check never stops the others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from mergecore.api import InputError, ModelError
from mergecore.tooling import (
    LOCK_NAME,
    Checkpoint,
    Lock,
    MergecoreError,
    Registry,
    find_architecture,
    leaves,
    local_definitions,
    open_model,
    read_lock,
    rename_tensors,
    split_adapters,
)
from mergecore.tooling import compare_names as examine_names
from mergecore_verify.adapter import examine_adapter, is_adapter
from mergecore_verify.content import check_finite, check_hashes
from mergecore_verify.findings import Finding, few, skipped
from mergecore_verify.loading import check_loading
from mergecore_verify.sampling import check_sample
from mergecore_verify.vocabulary import check_tokens


def examine(folder: Path, sample: int = 0) -> Iterator[Finding]:
    """Check a model folder, or an adapter.

    Args:
        folder: A model folder or an adapter, from mergecore or elsewhere. Adapters can follow their base after ``+``.
        sample: Number of tensors to recompute from the parents listed in the folder's lock file.

    Yields:
        A finding for each check, as soon as it is done.

    Raises:
        InputError: The folder does not exist, or `sample` is given and the lock file or the parents are missing.
    """
    base, adapters = split_adapters(str(folder))
    if missing := next((one for one in (base, *adapters) if not Path(one).is_dir()), None):
        raise InputError(f"{missing}: there is no such folder")
    registry = Registry(warnings.warn, local_definitions([]))
    if adapters or is_adapter(folder):
        if sample:
            raise InputError(f"{folder}: --sample recomputes merged models, and this is an adapter; remove --sample")
        for adapter in adapters or [str(folder)]:
            yield from examine_adapter(Path(adapter), base if adapters else "", registry)
        return
    lock = _lock(folder)
    if isinstance(lock, Finding):
        yield lock
        lock = None
    try:
        checkpoint = open_model(str(folder), registry)
    except ModelError as error:
        yield Finding("files", False, str(error))
        yield check_hashes(folder, lock)
        return
    try:
        yield Finding("files", True, f"{len(checkpoint.tensors)} tensors in {len(checkpoint.files)} file(s)")
        yield _safely("names", lambda: _check_names(checkpoint, registry))
        yield _safely("shapes", lambda: _check_vocabulary_size(checkpoint, registry))
        yield _safely("values", lambda: check_finite(checkpoint))
        yield check_hashes(folder, lock)
        yield _safely("tokenizer", lambda: check_tokens(checkpoint))
        yield check_loading(checkpoint)
        if sample:
            yield check_sample(checkpoint, lock, registry, sample)
    finally:
        checkpoint.close()


def _lock(folder: Path) -> Lock | Finding | None:
    """Return the folder's lock file, or a finding if it cannot be read."""
    if not (folder / LOCK_NAME).exists():
        return None
    try:
        return read_lock(folder / LOCK_NAME) or Finding(
            "lock", False, f"{folder / LOCK_NAME}: is damaged; run the merge again"
        )
    except InputError as error:
        return Finding("lock", False, str(error))


def _safely(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except MergecoreError as error:
        return Finding(name, False, str(error))


def _check_names(checkpoint: Checkpoint, registry: Registry) -> Finding:
    architecture, notes = find_architecture(checkpoint, registry, {})
    found = examine_names(architecture, checkpoint)
    if found.unknown or found.missing:
        unknown = f"{few(found.unknown)} unknown to {architecture.name}" if found.unknown else ""
        missing = f"{few(found.missing)} missing" if found.missing else ""
        return Finding("names", False, "; ".join(filter(None, (unknown, missing))))
    if notes:
        return Finding("names", True, f"consistent; {notes[0]}")
    return Finding("names", True, f"exactly the tensors of {architecture.name} with this config.json")


def _check_vocabulary_size(checkpoint: Checkpoint, registry: Registry) -> Finding:
    """Compare the rows of embeddings and heads with the config. The loading check covers all other shapes."""
    architecture, _ = find_architecture(checkpoint, registry, {})
    kept, _ = rename_tensors(checkpoint, architecture)
    bound = architecture.bind(kept.config, kept.reference, frozenset(kept.tensors))
    stated = {value for key, value in leaves(kept.config) if key.split(".")[-1] in ("vocab_size", "padded_vocab_size")}
    sizes = {}
    for weight in bound.weights(kept.config, kept.reference):
        for name in (weight.name, *weight.aliases):
            if weight.vocabulary_axis is not None and name in kept.tensors:
                sizes[name] = kept.tensors[name].shape[weight.vocabulary_axis]
    if not sizes or not stated:
        return skipped("shapes", f"{architecture.name} has no known vocabulary")
    wrong = [f"{name} has {rows} rows" for name, rows in sizes.items() if rows not in stated]
    if wrong:
        numbers = " and ".join(map(str, sorted(stated)))
        return Finding("shapes", False, f"{', '.join(wrong)}, but vocab_size in config.json is {numbers}")
    return Finding("shapes", True, f"vocab_size in config.json matches {' and '.join(sizes)}")
