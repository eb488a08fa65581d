"""Texts and JSON lines that evaluations are made of, with errors that name file and line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergecore.api import InputError, read_text

LIMIT = 10**9
"""Bytes that a file may have."""


def read_records(path: Path, required: Mapping[str, type | tuple[type, ...]]) -> list[dict[str, Any]]:
    """The objects of a JSONL file, one a line, blank lines left out.

    Args:
        path: the file.
        required: the keys that every object needs, with the types that their values may have.

    Raises:
        InputError: a line is no JSON object, or lacks a key; or there is none.
    """
    found = []
    for number, line in enumerate(read_text(path, LIMIT).splitlines(), 1):
        if line.strip():
            found.append(_record(line, f"{path}, line {number}", required))
    if not found:
        raise InputError(f"{path}: is empty; write one JSON object a line")
    return found


def _record(line: str, where: str, required: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: this is not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: must be a JSON object such as {{{', '.join(f'{key!r}: ...' for key in required)}}}")
    for key, kinds in required.items():
        if not isinstance(record.get(key), kinds) or isinstance(record.get(key), bool):
            problem = "is missing" if key not in record else "has a value of the wrong type"
            raise InputError(f"{where}: {key!r} {problem}")
    return record


def read_texts(path: Path) -> list[str]:
    """The texts of a file: ``text`` of every object of a ``.jsonl`` file, else all of it as one.

    Raises:
        InputError: it cannot be read, or there is no text in it.
    """
    if path.suffix == ".jsonl":
        texts = [record["text"] for record in read_records(path, {"text": str})]
    else:
        texts = [read_text(path, LIMIT)]
    if not any(text.strip() for text in texts):
        raise InputError(f"{path}: holds no text")
    return texts
