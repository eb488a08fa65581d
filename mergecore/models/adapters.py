"""Adapters in recipes. Open `base+adapter`: a plugin applies the adapter's changes to each tensor when it is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mergecore.api import (
    FLOATS,
    VOCABULARY_FILES,
    Adapter,
    AdapterRequest,
    Change,
    ModelInfo,
    Reader,
    TensorInfo,
    torch_dtype,
)
from mergecore.definitions import Architecture, size_config, tie_keys, with_keys
from mergecore.discovery import Registry
from mergecore.errors import ModelError, PluginError
from mergecore.models.architecture_lookup import find_architecture
from mergecore.models.checkpoint import Added, Checkpoint, check_link, open_folder
from mergecore.models.layout_reader import convert_layout, join_parts, rename_tensors
from mergecore.models.not_models import ADAPTER
from mergecore.models.references import find_adapter, split_adapters
from mergecore.models.remote_files import Shard, shards_of
from mergecore.models.stamps import stamp_file
from mergecore.models.tied_weights import stored_name, tied_heads

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""PEFT's file names. If both files exist, PEFT uses the first."""


def open_model(reference: str, registry: Registry, own: Mapping[str, Any] | None = None) -> Checkpoint:
    """Open a model folder, with adapters if the reference is of the form ``base+adapter+adapter``.

    Args:
        reference: the model as written in a recipe. A folder name can contain ``+`` if the folder exists.
        registry: the plugins.
        own: architecture definitions that take precedence over all others.

    Raises:
        ModelError: if a folder or its contents cannot be used.
        PluginError: if no plugin recognizes an adapter.
    """
    base, adapters = split_adapters(reference)
    checkpoint = open_folder(base, registry)
    opened: list[Reader] = [*checkpoint.files]
    try:
        for adapter in adapters:
            checkpoint = with_adapter(checkpoint, find_adapter(adapter), registry, own or {}, opened)
    except BaseException:
        for file in opened:
            file.close()
        raise
    return replace(checkpoint, reference=reference, files=opened) if adapters else checkpoint


def open_adapter(folder: Path, registry: Registry) -> Checkpoint:
    """Open the weights of an adapter's folder by themselves, with the names in its file.

    Raises:
        ModelError: if the folder has no weights of an adapter, or they cannot be read.
    """
    path = next((folder / name for name in ADAPTER_WEIGHTS if (folder / name).exists()), None)
    if path is None:
        raise ModelError(f"{folder}: has no {ADAPTER_WEIGHTS[0]}; download the complete adapter")
    check_link(folder, path)
    stamp = stamp_file(path)
    reader: Reader = registry.provide("readers", path.suffix.removeprefix("."))(path)
    readers = dict.fromkeys(reader.tensors, reader)
    return Checkpoint(str(folder), folder, {}, reader.tensors, readers, [reader], {path: stamp})


def with_adapter(
    checkpoint: Checkpoint, folder: Path, registry: Registry, own: Mapping[str, Any], opened: list[Reader]
) -> Checkpoint:
    """Apply the adapter in a folder to a checkpoint, and use the tensor names of its definition.

    Args:
        checkpoint: a model.
        folder: folder of the adapter.
        registry: the plugins.
        own: architecture definitions that take precedence over all others.
        opened: the list to add the opened adapter files to. The caller closes them.

    Raises:
        ModelError: if the adapter does not match the model.
        PluginError: if no plugin recognizes the adapter.
    """
    definition, _ = find_architecture(checkpoint, registry, own)
    checkpoint, _ = rename_tensors(checkpoint, definition)
    whole, bound = join_parts(checkpoint, definition)
    tied = tied_heads(bound, checkpoint)

    def open_file(path: Path) -> Reader:
        check_link(folder, path)
        reader: Reader = registry.provide("readers", path.suffix.removeprefix("."))(path)
        opened.append(reader)
        return reader

    heads = {head: checkpoint.tensors[embedding] for head, embedding in tied.items()}
    tensors = {**whole.tensors, **checkpoint.tensors, **heads}
    info = ModelInfo(checkpoint.reference, checkpoint.folder, checkpoint.config)
    others = {**_aliases(bound, checkpoint, tensors), **definition.prefixes}
    adapter = registry.adapter(AdapterRequest(folder, info, tensors, others, tied, open_file))
    if adapter is None:
        inside = sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER}"))
        if inside:
            raise ModelError(f"{folder}: is not an adapter, but contains {', '.join(inside)}; add {folder / inside[0]}")
        raise PluginError(
            f"{folder}: no installed package recognizes this adapter; for PEFT LoRA: pip install mergecore-lora"
        )
    _check(adapter, tensors, folder)
    direct = {name: change for name, change in adapter.changes.items() if name in {**checkpoint.tensors, **tied}}
    changed = with_changes(checkpoint, direct, tied, adapter.rows)
    if direct.keys() & tied.keys():  # the head is no longer tied to the embedding
        changed = replace(changed, config=with_keys(changed.config, tie_keys(changed.config, False)))
    if adapter.rows:
        changed = _resized(changed, bound, adapter.rows, folder)
    if rest := {name: change for name, change in adapter.changes.items() if name not in direct}:
        in_parts = definition.bind(checkpoint.config, checkpoint.reference, frozenset(checkpoint.tensors))
        changed = with_changes(convert_layout(changed, definition, bound, checkpoint), rest)
        changed = convert_layout(changed, definition, in_parts, checkpoint)
    added = Added(folder, adapter.summary, len(adapter.changes))
    stamps = {**checkpoint.stamps, **{path: stamp_file(path) for path in adapter.files}}
    tokenizer = folder if _has_tokenizer(folder) else checkpoint.tokenizer
    notes = (*changed.notes, *_share_note(checkpoint, adapter, tied, folder))
    return replace(changed, stamps=stamps, adapters=(*checkpoint.adapters, added), tokenizer=tokenizer, notes=notes)


SAMPLED, PIECE = 16, 1 << 15
"""Number of tensors, and of elements of each, from which the size of an adapter's changes is estimated."""


def _share_note(checkpoint: Checkpoint, adapter: Adapter, tied: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Yield a note with the norm of an adapter's changes relative to the norm of the tensors that it changes.

    It is an estimate from pieces of some tensors. Models that are not in local files are not read for it.
    """
    names = [name for name in adapter.changes if name in checkpoint.tensors and name not in adapter.rows]
    chosen = names[:: max(1, len(names) // SAMPLED)]
    if not chosen or not checkpoint.files or any(not shard.here for shard in _shards(checkpoint, chosen)):
        return
    share = _share(checkpoint, adapter, chosen, PIECE) or _share(checkpoint, adapter, chosen, None)
    if share:
        yield f"{folder}: changes the tensors of the base that it is for by about {share:.2%} of their norm"
    elif adapter.changes.keys() <= {*names, *tied}:
        yield f"{folder}: changes the base by 0.0%; was it saved before it was trained?"


def _shards(checkpoint: Checkpoint, names: Iterable[str]) -> Iterator[Shard]:
    for name in names:
        yield from shards_of(checkpoint.readers[name], name)


def _share(checkpoint: Checkpoint, adapter: Adapter, names: Iterable[str], limit: int | None) -> float:
    """Return the norm of the changes divided by the norm of the tensors, over the first elements of each."""
    import torch

    changed = whole = 0.0
    for name in names:
        info = checkpoint.tensors[name]
        read = partial(_read_base, checkpoint, name)
        before = torch.empty(min(info.elements, limit or info.elements))
        read(0, before)
        after = before.clone()
        adapter.changes[name].apply(0, after, read)
        weight = info.elements / len(before)
        changed += weight * (after - before).double().square().sum().item()
        whole += weight * before.double().square().sum().item()
    return math.sqrt(changed / whole) if whole else 0.0


def _resized(changed: Checkpoint, architecture: Architecture, resized: Iterable[str], folder: Path) -> Checkpoint:
    """Set the number of tokens in the config after an adapter has resized the vocabulary.

    Raises:
        ModelError: if it has not resized all tensors with one row per token, and no others.
    """
    weights = architecture.weights(changed.config, changed.reference)
    tables = {weight.name: name for weight in weights
              if weight.vocabulary_axis == 0 and (name := stored_name(changed, weight))}  # fmt: skip
    if other := next((name for name in resized if name not in tables.values()), None):
        raise ModelError(
            f"{folder}: {other!r} has another number of rows than the model; was it trained for this model?"
        )
    rows = {name: changed.tensors[name].shape[0] for name in tables.values()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name!r} {count}" for name, count in rows.items())
        raise ModelError(
            f"{folder}: resizes only a part of the vocabulary (rows: {counts}); save the adapter again with"
            " save_embedding_layers=True"
        )
    sizes = size_config(architecture, set(tables), changed.config, next(iter(rows.values())))
    return replace(changed, config=with_keys(changed.config, sizes))


def _has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has a vocabulary. Without one, its other tokenizer files belong to the base's."""
    return any(next(folder.glob(pattern), None) for pattern in ("tokenizer.json", *VOCABULARY_FILES))


def _shape(info: TensorInfo, rows: int | None) -> tuple[int, ...]:
    return info.shape if rows is None else (rows, *info.shape[1:])


def _aliases(architecture: Architecture, checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Return alternative names of the tensors, mapped to their names in the checkpoint."""
    weights = architecture.weights(checkpoint.config, checkpoint.reference)
    spellings = ((weight.name, *weight.aliases) for weight in weights if weight.aliases)
    return {name: there for names in spellings if (there := next((n for n in names if n in tensors), None))
            for name in names if name != there}  # fmt: skip


def _check(adapter: Adapter, tensors: Mapping[str, TensorInfo], folder: Path) -> None:
    for name in adapter.changes:
        if tensors[name].dtype not in FLOATS:
            raise ModelError(f"{folder}: changes {name!r}, but its dtype {tensors[name].dtype} is not supported")


NONE: Mapping[str, Any] = MappingProxyType({})


def with_changes(
    checkpoint: Checkpoint,
    changes: Mapping[str, Change],
    tied: Mapping[str, str] = NONE,
    rows: Mapping[str, int] = NONE,
) -> Checkpoint:
    """Return a checkpoint whose tensors are changed when they are read.

    Args:
        checkpoint: the model.
        changes: the change of each tensor.
        tied: tensors that are not stored because they are tied, mapped to those they are tied to. If one is changed, it
            becomes a separate tensor.
        rows: the new number of rows of tensors that are resized.
    """
    names = {name: tied.get(name, name) for name in changes}
    changed = Changed(checkpoint, changes, names, rows)
    readers = {**checkpoint.readers, **dict.fromkeys(changes, changed)}
    return replace(checkpoint, tensors={**checkpoint.tensors, **changed.tensors}, readers=readers)


class Changed:
    """A `mergecore.api.Reader` that computes the changed tensors of a checkpoint on read, without rounding."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        changes: Mapping[str, Change],
        names: Mapping[str, str],
        rows: Mapping[str, int],
    ) -> None:
        infos = {name: checkpoint.tensors[source] for name, source in names.items()}
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo("F64" if info.dtype == "F64" else "F32", _shape(info, rows.get(name)), info.kept)
            for name, info in infos.items()
        }
        self._checkpoint, self._changes, self._names = checkpoint, changes, names

    def read(self, name: str, start: int, out: Tensor) -> None:
        """See `mergecore.api.Reader.read`."""
        unchanged = partial(_read_base, self._checkpoint, self._names[name])
        unchanged(start, out)
        self._changes[name].apply(start, out, unchanged)

    def parts(self, name: str) -> list[tuple[Reader, str, int]]:
        """Return the readers and tensors that a tensor is read from. See `shards.shards_of`."""
        source = self._names[name]
        return [(self._checkpoint.readers[source], source, self._checkpoint.tensors[source].elements)]

    def close(self) -> None:
        """Do nothing, because the files belong to the checkpoint."""


def _read_base(checkpoint: Checkpoint, name: str, start: int, out: Tensor) -> None:
    """Fill `out` with elements of a tensor, converted to its dtype. Elements beyond the end of the tensor are zero."""
    info = checkpoint.tensors[name]
    dtype, there = torch_dtype(info.dtype), max(info.elements - start, 0)
    out[there:] = 0
    out = out[:there]
    if out.dtype == dtype:
        checkpoint.read(name, start, out)
        return
    stored = out.new_empty(out.shape, dtype=dtype)
    checkpoint.read(name, start, stored)
    out.copy_(stored)
