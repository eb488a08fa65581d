"""The tokenizer files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mergecore.api import TOKENIZER_FILES, read_json

LIMIT = 2 * 10**8
"""Maximum size of a tokenizer's JSON file in bytes. The largest published ones are about 30 MB."""


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the tokenizer files in a folder."""
    return [path for pattern in TOKENIZER_FILES for path in sorted(folder.glob(pattern)) if path.is_file()]


def read_optional(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty dict if the file does not exist. See `mergecore.api.read_json`."""
    return read_json(path, LIMIT) if path.is_file() else {}


def as_json(value: Any) -> bytes:
    """Return a value as the bytes of a JSON file."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
