"""The tokenizer files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mergecore.api import TOKENIZER_BYTES, TOKENIZER_FILES, ModelError, read_json


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the tokenizer files in a folder."""
    return [path for pattern in TOKENIZER_FILES for path in sorted(folder.glob(pattern)) if path.is_file()]


def read_optional(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty dict if the file does not exist. See `mergecore.api.read_json`."""
    return read_json(path, TOKENIZER_BYTES) if path.is_file() else {}


def read_bytes(path: Path) -> bytes:
    """Return the content of a tokenizer file.

    Raises:
        ModelError: it is too large.
    """
    if path.stat().st_size > TOKENIZER_BYTES:
        raise ModelError(f"{path}: is larger than the limit of {TOKENIZER_BYTES / 1e6:.0f} MB; download it again")
    return path.read_bytes()


def as_json(value: Any) -> bytes:
    """Return a value as the bytes of a JSON file."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
