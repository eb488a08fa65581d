"""The tokenizer files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mergecore.api import TOKENIZER_FILES, ModelError, read_text

LIMIT = 2 * 10**8
"""Maximum size of a tokenizer's JSON file in bytes. The largest published ones have about 30 MB."""


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the tokenizer files in a folder."""
    return [path for pattern in TOKENIZER_FILES for path in sorted(folder.glob(pattern)) if path.is_file()]


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty dict if the file does not exist.

    Raises:
        ModelError: the file does not contain a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_text(path, LIMIT))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be parsed as JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must contain a JSON object; download it again")
    return value


def as_json(value: Any) -> bytes:
    """Return a value as the bytes of a JSON file."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
