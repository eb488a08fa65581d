"""The tokenizer files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mergecore.api import TOKENIZER_FILES, ModelError, read_text

LIMIT = 2 * 10**8
"""Bytes that a JSON file of a tokenizer may have; the largest published ones have some 30 million."""


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer files in a folder."""
    return [path for pattern in TOKENIZER_FILES for path in sorted(folder.glob(pattern)) if path.is_file()]


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
