"""Read texts and JSON lines for evaluations, with errors that name the file and line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergecore.api import InputError, read_text

LIMIT = 10**9
"""Maximum size of a file in bytes."""


def read_records(path: Path, required: Mapping[str, type | tuple[type, ...]]) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file, one per line, skipping blank lines.

    Args:
        path: The file.
        required: Keys that every object needs, with the allowed types of their values.

    Raises:
        InputError: A line is not a JSON object or has a missing key, or there are no lines.
    """
    found = []
    for number, line in enumerate(read_text(path, LIMIT).splitlines(), 1):
        if line.strip():
            found.append(_record(line, f"{path}, line {number}", required))
    if not found:
        raise InputError(f"{path}: is empty; write one JSON object per line")
    return found


def _record(line: str, where: str, required: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: cannot be parsed as JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: must be a JSON object such as {{{', '.join(f'{key!r}: ...' for key in required)}}}")
    for key, kinds in required.items():
        if not isinstance(record.get(key), kinds) or isinstance(record.get(key), bool):
            problem = "is missing" if key not in record else "has a value of the wrong type"
            raise InputError(f"{where}: {key!r} {problem}")
    return record


def read_texts(path: Path) -> list[str]:
    """Return the texts of a file: ``text`` of every object of a ``.jsonl`` file, or else the whole file as one text.

    Raises:
        InputError: The file cannot be read or contains no text.
    """
    if path.suffix == ".jsonl":
        texts = [record["text"] for record in read_records(path, {"text": str})]
    else:
        texts = [read_text(path, LIMIT)]
    if not any(text.strip() for text in texts):
        raise InputError(f"{path}: contains no text")
    return texts
