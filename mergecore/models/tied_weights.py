"""Tied weights: which stored tensor a weight comes from, and stored copies of a weight that is tied to another."""

from __future__ import annotations

from dataclasses import replace

from mergecore.api import ITEM_BYTES, Reader, new_memory
from mergecore.definitions import Architecture, Weight, denies_ties, is_tied, tie_keys, with_keys
from mergecore.models.checkpoint import Checkpoint
from mergecore.models.remote_files import shards_of

CHUNK = 1 << 22
"""Number of elements compared at a time."""


def stored_name(checkpoint: Checkpoint, weight: Weight) -> str | None:
    """Return the name of a weight in a checkpoint, or None if the checkpoint does not have it."""
    if weight.name in checkpoint.tensors:
        return weight.name
    return next((name for name in weight.aliases if name in checkpoint.tensors), None)


def source_name(checkpoint: Checkpoint, weight: Weight, kind: str) -> str | None:
    """Return the name of the tensor that a weight has its values from: the weight, or the one it is tied to.

    A model of another class might have no head because its class has none. Then the embedding takes its place only if
    the model's config does not rule it out.

    Args:
        checkpoint: the model.
        weight: the weight.
        kind: name of the class that has this weight.
    """
    name = stored_name(checkpoint, weight)
    if name is None and weight.tied_to:
        of_kind = kind in (checkpoint.config.get("architectures") or ())
        if of_kind or not denies_ties(checkpoint.config):
            return stored_name(checkpoint, Weight(weight.tied_to))
    return name


def tied_heads(architecture: Architecture, checkpoint: Checkpoint) -> dict[str, str]:
    """Return the weights that are not stored because they are tied, mapped to the weights that they are tied to."""
    weights = architecture.weights(checkpoint.config, checkpoint.reference)
    return {
        weight.name: weight.tied_to
        for weight in weights
        if weight.tied_to and weight.tied_to in checkpoint.tensors and stored_name(checkpoint, weight) is None
    }


def without_copies(checkpoint: Checkpoint, definition: Architecture) -> tuple[Checkpoint, dict[str, str]]:
    """Drop the stored copies of tied weights, which many trainers write.

    This is what transformers does: if the config ties two weights and both are stored, it compares them. Equal weights
    are tied. Different weights stay separate.

    Args:
        checkpoint: a model, with the names of the definition.
        definition: the definition. Only weights outside the layers can be tied.

    Returns:
        The checkpoint, and the tensors stored under the name of a weight that is tied to them, mapped to their own
        names.
    """
    modules = definition.modules.values()
    heads = {weight.name for module in modules for weight in module.after}
    tied, separate = is_tied(checkpoint.config), denies_ties(checkpoint.config)
    dropped, moved, notes = set[str](), dict[str, str](), list(checkpoint.notes)
    for weight in (weight for module in modules for weight in (*module.before, *module.after)):
        name = stored_name(checkpoint, weight) if weight.tied_to else None
        if name is None or (separate and weight.name in heads):
            continue
        target = stored_name(checkpoint, Weight(weight.tied_to or ""))
        if target is None:
            moved.update({name: weight.tied_to or ""} if tied else {})
        elif _equal(checkpoint, name, target):
            dropped.add(name)
        elif tied:
            notes.append(
                f"{checkpoint.reference}: its config ties {name!r} to {target!r}, but the stored weights differ,"
                " so they are merged separately"
            )
    tensors = {name: info for name, info in checkpoint.tensors.items() if name not in dropped}
    readers = {name: checkpoint.readers[name] for name in tensors}
    # A config without the key leaves it to the class, which differs between versions of transformers.
    config = with_keys(checkpoint.config, tie_keys(checkpoint.config, True)) if dropped & heads else checkpoint.config
    return replace(checkpoint, tensors=tensors, readers=readers, config=config, notes=tuple(notes)), moved


def _equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Return whether two tensors have the same bytes. Files that are still on the Hub are downloaded first."""
    infos = [checkpoint.tensors[name] for name in (first, second)]
    if (infos[0].dtype, infos[0].shape) != (infos[1].dtype, infos[1].shape):
        return False
    for name in (first, second):
        _fetch(checkpoint.readers[name], name)
    dtype, elements = infos[0].dtype, infos[0].elements
    buffers = [new_memory(min(CHUNK, elements), dtype) for _ in infos]
    for start in range(0, elements, CHUNK):
        parts = [buffer[: (elements - start) * ITEM_BYTES[dtype]] for buffer in buffers]
        for name, part in zip((first, second), parts):
            checkpoint.read(name, start, part)
        if bytes(parts[0]) != bytes(parts[1]):  # comparing the views would take several times as long
            return False
    return True


def _fetch(reader: Reader, name: str) -> None:
    for shard in shards_of(reader, name):
        shard.fetch(lambda count: None)
