"""The tokenizer files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mergecore.api import ModelError, read_text

VOCABULARY_FILES = (
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "tokenizer.model.v*",
    "tekken.json",
    "*.tiktoken",
    "spiece.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
)
"""Patterns of the files that hold the same vocabulary as tokenizer.json, in older formats."""

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    *VOCABULARY_FILES,
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""Patterns of all files of a tokenizer, relative to the model folder."""


LIMIT = 2 * 10**8
"""Bytes that a JSON file of a tokenizer may have; the largest published ones have some 30 million."""


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer files in a folder."""
    return [path for pattern in FILES for path in sorted(folder.glob(pattern)) if path.is_file()]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file.

    Raises:
        ModelError: it holds something else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_text(path, LIMIT))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error}); fetch it again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must hold a JSON object; fetch it again")
    return value


def as_json(value: Any) -> bytes:
    """A value as the bytes of a JSON file."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
