"""Check that rows of vocabulary tensors belong to the same tokens in all models, as far as small files show."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergecore.api import TOKENIZER_BYTES, Job, read_json
from mergecore.errors import ModelError
from mergecore.models.checkpoint import Checkpoint

VOCABULARY_CURE = (
    "their vocabularies differ, so choose one for the result with tokenizer: {source: base} or"
    " tokenizer: {source: union}, which merges rows token by token"
)


def check_vocabularies(tables: Sequence[Job], checkpoints: Sequence[Checkpoint], config_source: int) -> list[str]:
    """Check that the rows of all models belong to the same tokens as in the config source, whose tokenizer is used.

    Args:
        tables: the jobs of weights with one row per token.
        checkpoints: the input models.
        config_source: index of the config source, whose files are copied.

    Returns:
        Notes on tokens that are only in one of two models.

    Raises:
        ModelError: if a row belongs to different tokens, or the output would have the wrong number of rows.
    """
    notes = []
    sizes = {job.name: job.info.shape[0] for job in tables if job.info.shape}
    for job in tables:
        own = checkpoints[config_source].tensors.get(job.name)
        if own is not None and own.shape[:1] != job.info.shape[:1]:
            source = checkpoints[job.inputs[0].model].reference
            raise ModelError(
                f"{job.name}: has {job.info.shape[0]} rows in {source} but {own.shape[0]} in"
                f" {checkpoints[config_source].reference}, which supplies the config; {VOCABULARY_CURE}"
            )
    for model in sorted({item.model for job in tables for item in job.inputs} - {config_source}):
        notes += _compare(checkpoints[config_source], checkpoints[model], min(sizes.values()))
    return notes


def _compare(kept: Checkpoint, other: Checkpoint, rows: int) -> list[str]:
    folders = kept.info.tokenizer_folder, other.info.tokenizer_folder
    if _same_file(*folders):
        return []
    ours, theirs = map(token_ids, folders)
    if ours is None or theirs is None:
        return []
    names = {number: token for token, number in ours.items()}
    for token, number in theirs.items():
        here = ours.get(token, number)
        there = names.get(number, token)
        if number < rows and here < rows and (here != number or there != token):
            means = f"row {number} is {token!r} in {other.reference}" + (
                f" and {there!r} in {kept.reference}" if there != token else f", row {here} in {kept.reference}"
            )
            raise ModelError(f"{means}; {VOCABULARY_CURE}")
    alone = sorted(token for token in ours.keys() ^ theirs.keys() if ours.get(token, theirs.get(token, 0)) < rows)
    if not alone:
        return []
    more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
    return [f"only one of {kept.reference} and {other.reference} has the token {alone[0]!r}{more};"
            f" the rows are merged, and the tokenizer of {kept.reference} is used"]  # fmt: skip


FILES = ("tokenizer.json", "vocab.json")


def _same_file(one: Path, other: Path) -> bool:
    """Return True if two folders have the same tokenizer file, byte for byte."""
    name = next((name for name in FILES if (one / name).is_file()), None)
    return name is not None and (other / name).is_file() and filecmp.cmp(one / name, other / name, shallow=False)


def token_ids(folder: Path) -> Mapping[str, int] | None:
    """Return the ID of every token, from tokenizer.json or else vocab.json. Return None if there is neither.

    Raises:
        ModelError: if the file is invalid.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    value = read_json(path, TOKENIZER_BYTES)
    try:
        return dict(_in_tokenizer(value) if path.name == FILES[0] else value)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ModelError(f"{path}: does not contain a valid vocabulary; download it again") from None


def _in_tokenizer(value: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = value["model"]["vocab"]
    listed = isinstance(vocabulary, list)
    tokens = {piece[0]: number for number, piece in enumerate(vocabulary)} if listed else dict(vocabulary)
    for item in value.get("added_tokens") or ():
        tokens.setdefault(item["content"], item["id"])
    return tokens
