"""What models differ in beside their weights: config, dtypes, tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mergecore.api import ModelError, read_text
from mergecore.definitions.config import leaves
from mergecore.models.checkpoint import Checkpoint
from mergecore.models.vocabulary_check import token_ids

ABSENT = "absent"
"""What stands for a value that a file does not have."""

SILENT = ("transformers_version", "use_cache", "name_or_path", "tokenizer_file")
"""Keys that say nothing about a model."""

LIMIT = 10**8
"""Bytes that a tokenizer_config.json may have."""


class Tokens(NamedTuple):
    """A model's tokens beside the base's: how many each has, both have, and both have under one number."""

    base: int
    own: int
    shared: int
    same_number: int

    @property
    def same(self) -> bool:
        return self.base == self.own == self.same_number


Differing = dict[str, list[Any]]
"""By dotted key the value of every model, where they are not all the same."""


def config_differences(checkpoints: Sequence[Checkpoint]) -> Differing:
    """Where the models' config.json differ."""
    return _differing([dict(leaves(checkpoint.config)) for checkpoint in checkpoints])


def tokenizer_differences(checkpoints: Sequence[Checkpoint]) -> Differing:
    """Where the models' tokenizer_config.json and chat_template.jinja differ, leaving out the tokens."""
    return _differing([_tokenizer_settings(checkpoint.folder) for checkpoint in checkpoints])


def _differing(values: Sequence[Mapping[str, Any]]) -> Differing:
    keys = dict.fromkeys(key for found in values for key in found)
    every = {key: [found.get(key, ABSENT) for found in values] for key in keys if not _is_silent(key)}
    return {key: found for key, found in every.items() if any(value != found[0] for value in found)}


def _is_silent(key: str) -> bool:
    last = key.rpartition(".")[2]
    return last in SILENT or last.startswith("_")


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    path, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    try:
        found = json.loads(read_text(path, LIMIT)) if path.is_file() else {}
        values = {key: value for key, value in found.items() if key != "added_tokens_decoder"}
    except (ValueError, RecursionError, AttributeError):
        raise ModelError(f"{path}: cannot be read as a JSON object; fetch it again") from None
    if template.is_file():
        values["chat_template"] = read_text(template, LIMIT)
    return values


def dtypes(checkpoint: Checkpoint) -> dict[str, int]:
    """How many tensors a model stores in each dtype."""
    return dict(Counter(info.dtype for info in checkpoint.tensors.values()).most_common())


def token_differences(checkpoints: Sequence[Checkpoint]) -> list[Tokens | None]:
    """Each model's tokens beside the first one's; None where one of the two has no tokenizer that can be read."""
    base, *others = (token_ids(checkpoint.folder) for checkpoint in checkpoints)
    return [None, *(_compared(base, other) if base and other else None for other in others)]


def _compared(base: Mapping[str, int], other: Mapping[str, int]) -> Tokens:
    shared = base.keys() & other.keys()
    return Tokens(len(base), len(other), len(shared), sum(base[token] == other[token] for token in shared))
