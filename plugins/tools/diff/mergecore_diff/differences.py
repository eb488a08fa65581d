"""Differences between models other than their weights: config, dtypes, and tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mergecore.api import read_json, read_text
from mergecore.tooling import Checkpoint, leaves, token_ids

ABSENT = "absent"
"""Placeholder for a value that a file does not have."""

SILENT = ("transformers_version", "use_cache", "name_or_path", "tokenizer_file")
"""Keys that do not describe the model."""

LIMIT = 10**8
"""Maximum size in bytes of a tokenizer_config.json."""


class Tokens(NamedTuple):
    """Token counts of the base, of a model, of both, and of both with the same ID."""

    base: int
    own: int
    shared: int
    same_number: int

    @property
    def same(self) -> bool:
        return self.base == self.own == self.same_number


Differing = dict[str, list[Any]]
"""Every model's value by dotted key, for keys whose values differ."""


def config_differences(checkpoints: Sequence[Checkpoint]) -> Differing:
    """Return the differences between the config.json files of the models."""
    return _differing([dict(leaves(checkpoint.config)) for checkpoint in checkpoints])


def tokenizer_differences(checkpoints: Sequence[Checkpoint]) -> Differing:
    """Return the differences in tokenizer_config.json and chat_template.jinja, except for the tokens."""
    return _differing([_tokenizer_settings(checkpoint.info.tokenizer_folder) for checkpoint in checkpoints])


def _differing(values: Sequence[Mapping[str, Any]]) -> Differing:
    keys = dict.fromkeys(key for found in values for key in found)
    every = {key: [found.get(key, ABSENT) for found in values] for key in keys if not _is_silent(key)}
    return {key: found for key, found in every.items() if any(value != found[0] for value in found)}


def _is_silent(key: str) -> bool:
    last = key.rpartition(".")[2]
    return last in SILENT or last.startswith("_")


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    path, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    found = read_json(path, LIMIT) if path.is_file() else {}
    values = {key: value for key, value in found.items() if key != "added_tokens_decoder"}
    if template.is_file():
        values["chat_template"] = read_text(template, LIMIT)
    return values


def dtypes(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the number of tensors that a model stores in each dtype."""
    return dict(Counter(info.dtype for info in checkpoint.tensors.values()).most_common())


def token_differences(checkpoints: Sequence[Checkpoint]) -> list[Tokens | None]:
    """Compare each model's tokens with the first model's. None if either has no readable tokenizer."""
    base, *others = (token_ids(checkpoint.info.tokenizer_folder) for checkpoint in checkpoints)
    return [None, *(_compared(base, other) if base and other else None for other in others)]


def _compared(base: Mapping[str, int], other: Mapping[str, int]) -> Tokens:
    shared = base.keys() & other.keys()
    return Tokens(len(base), len(other), len(shared), sum(base[token] == other[token] for token in shared))
