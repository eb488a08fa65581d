"""The checks of a model folder, one after another; only what they find stops being well, never the checks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from mergecore.definitions.config import leaves
from mergecore.discovery.registry import Registry
from mergecore.errors import InputError, MergecoreError, ModelError
from mergecore.models.adapters import open_model
from mergecore.models.architecture_lookup import examine as examine_names
from mergecore.models.architecture_lookup import find, local_definitions
from mergecore.models.checkpoint import Checkpoint
from mergecore.models.layout_reader import renamed
from mergecore.recipes.lockfile import NAME, Lock, read_lock
from mergecore_verify.content import check_finite, check_hashes
from mergecore_verify.findings import Finding, few, skipped
from mergecore_verify.loading import check_loading
from mergecore_verify.sampling import check_sample
from mergecore_verify.vocabulary import check_tokens


def examine(folder: Path, sample: int = 0) -> Iterator[Finding]:
    """Check a model folder.

    Args:
        folder: made by mergecore or by anyone.
        sample: how many tensors to compute again from the parents that the folder's lock names.

    Yields:
        A finding for each check, as soon as it is there.

    Raises:
        InputError: there is no such folder; or the parents, or a lock, that `sample` needs are not there.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    registry = Registry(warnings.warn, local_definitions([]))
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
    """The folder's lock; a finding where it has one that cannot be read."""
    if not (folder / NAME).exists():
        return None
    try:
        return read_lock(folder / NAME) or Finding("lock", False, f"{folder / NAME}: is damaged; make the folder again")
    except InputError as error:
        return Finding("lock", False, str(error))


def _safely(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except MergecoreError as error:
        return Finding(name, False, str(error))


def _check_names(checkpoint: Checkpoint, registry: Registry) -> Finding:
    architecture, notes = find(checkpoint, registry, {})
    found = examine_names(architecture, checkpoint)
    if found.unknown or found.missing:
        unknown = f"{few(found.unknown)} unknown to {architecture.name}" if found.unknown else ""
        missing = f"{few(found.missing)} missing" if found.missing else ""
        return Finding("names", False, "; ".join(filter(None, (unknown, missing))))
    if notes:
        return Finding("names", True, f"consistent; {notes[0]}")
    return Finding("names", True, f"all that {architecture.name} has for this config.json, and no others")


def _check_vocabulary_size(checkpoint: Checkpoint, registry: Registry) -> Finding:
    """Rows of embeddings and heads against the config; the loading check sees the other shapes."""
    architecture, _ = find(checkpoint, registry, {})
    kept, _ = renamed(checkpoint, architecture)
    bound = architecture.bind(kept.config, kept.reference, frozenset(kept.tensors))
    stated = {value for key, value in leaves(kept.config) if key.split(".")[-1] in ("vocab_size", "padded_vocab_size")}
    sizes = {}
    for weight in bound.weights(kept.config, kept.reference):
        for name in (weight.name, *weight.aliases):
            if weight.vocabulary_axis is not None and name in kept.tensors:
                sizes[name] = kept.tensors[name].shape[weight.vocabulary_axis]
    if not sizes or not stated:
        return skipped("shapes", f"{architecture.name} has no vocabulary that is known of")
    wrong = [f"{name} has {rows} rows" for name, rows in sizes.items() if rows not in stated]
    if wrong:
        numbers = " and ".join(map(str, sorted(stated)))
        return Finding("shapes", False, f"{', '.join(wrong)}, but config.json says vocab_size {numbers}")
    return Finding("shapes", True, f"{' and '.join(sizes)} have the vocab_size of config.json")
