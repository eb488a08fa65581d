"""Check that every token in the tokenizer or a config has a row in the embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mergecore.api import read_json
from mergecore.tooling import Checkpoint, leaves, token_ids
from mergecore_verify.findings import Finding, few, skipped

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
"""Keys of config.json and generation_config.json that hold a token ID."""

CONFIG_LIMIT = 10**7
"""Maximum size of generation_config.json in bytes."""


def check_tokens(checkpoint: Checkpoint) -> Finding:
    """Compare token IDs with vocab_size in config.json. The shapes are checked against it elsewhere."""
    rows = max((value for key, value in leaves(checkpoint.config) if _is_size(key, value)), default=0)
    if not rows:
        return skipped("tokenizer", "config.json has no vocab_size")
    named = {**checkpoint.config, "generation_config.json": _generation(checkpoint.folder)}
    wrong = [f"{key} {number}" for key, number in _special(named) if number >= rows]
    if wrong:
        return Finding("tokenizer", False, f"{few(wrong)} out of range, as vocab_size is {rows}")
    ids = token_ids(checkpoint.folder)
    if ids is None:
        return skipped("tokenizer", "no tokenizer.json or vocab.json")
    late = [f"{token!r} ({number})" for token, number in ids.items() if number >= rows]
    if late:
        return Finding("tokenizer", False, f"tokens out of range, as vocab_size is {rows}: {few(late)}")
    return Finding("tokenizer", True, f"{len(ids)} tokens, all below vocab_size {rows}")


def _is_size(key: str, value: Any) -> bool:
    return key.rsplit(".", maxsplit=1)[-1] == "vocab_size" and type(value) is int


def _generation(folder: Path) -> Mapping[str, Any]:
    path = folder / "generation_config.json"
    return read_json(path, CONFIG_LIMIT) if path.is_file() else {}


def _special(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in leaves(config):
        if key.split(".")[-1] in SPECIAL:
            yield from (
                (key, number) for number in (value if isinstance(value, list) else [value]) if type(number) is int
            )
