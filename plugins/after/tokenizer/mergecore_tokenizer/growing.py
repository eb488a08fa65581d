"""Add tokens to a tokenizer.json without changing how ordinary text is tokenized or any existing token ID.

New tokens go into the model's vocabulary, where no merge produces them, and not into the added tokens, which are split
off before anything else. Otherwise, another model's "ing" would split the base model's "Ġrunning".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mergecore.api import InputError, run_bounded
from mergecore.errors import MergecoreError
from mergecore_tokenizer.files import tokenizer_files
from mergecore_tokenizer.reading import Entry, Read, read

NEVER = 1e4
"""Amount by which new Unigram pieces score below the worst existing piece, so that no text is split into them."""

SECONDS = 120
MEMORY, PER_BYTE = 3 * 10**8, 60
"""Limits of the process that extends a tokenizer: bytes, and bytes for each byte of its files and the new tokens."""

LIBRARY = 7 * 10**8
"""Bytes that transformers takes in this process. It is used if there is no tokenizer.json."""


def grown(source: Read, ids: Mapping[str, int], added: Mapping[str, Entry]) -> dict[str, Any]:
    """Return the content of the extended tokenizer.json, which a process with limits on memory and time computes.

    Args:
        source: tokenizer to extend.
        ids: ID of every token of the result. Tokens of `source` keep their IDs.
        added: added tokens of the result, with their IDs.

    Raises:
        InputError: the tokenizer cannot represent these IDs.
    """
    size = sum(path.stat().st_size for path in tokenizer_files(source.folder))
    size += sum(len(token) + 20 for token in ids) + sum(len(token) + 150 for token in added)
    done = run_bounded(
        "mergecore_tokenizer.growing:extended",
        {"reference": source.reference, "folder": str(source.folder.absolute()), "ids": ids, "added": added},
        memory=MEMORY + PER_BYTE * size + (0 if (source.folder / "tokenizer.json").is_file() else LIBRARY),
        seconds=SECONDS,
    )
    if done.cause:
        raise InputError(f"{source.folder}: its tokenizer cannot be extended: {done.cause}; use another tokenizer")
    (answer,) = done.values
    if "error" in answer:
        raise InputError(answer["error"])
    value: dict[str, Any] = answer["value"]
    return value


def extended(request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the ``value`` of `grown`, or the ``error`` that it should raise."""
    source = read(request["reference"], Path(request["folder"]))
    assert source is not None
    try:
        yield {"value": _extended(source, request["ids"], request["added"])}
    except MergecoreError as error:
        yield {"error": str(error)}


def _extended(source: Read, ids: Mapping[str, int], added: Mapping[str, Entry]) -> dict[str, Any]:
    from tokenizers import Tokenizer

    value = dict(source.build())
    model = value["model"] = dict(value["model"])
    vocabulary = model["vocab"]
    model["vocab"] = _pieces(source, vocabulary, ids) if isinstance(vocabulary, list) else {**vocabulary, **ids}
    own = {entry["content"]: entry for entry in value.get("added_tokens") or ()}  # a class can add more than the files
    value["added_tokens"] = sorted({**own, **added}.values(), key=lambda entry: int(entry["id"]))
    check = Tokenizer.from_str(_text(value)).get_vocab(with_added_tokens=True)
    if check != ids:
        token = next(token for token in ids if check.get(token) != ids[token])
        raise InputError(f"{source.folder}: its tokenizer cannot assign the ID {ids[token]} to {token!r}")
    return value


def _pieces(source: Read, pieces: list[Any], ids: Mapping[str, int]) -> list[Any]:
    """Return a Unigram model's pieces. Their IDs are their positions."""
    lowest = min(score for _, score in pieces) - NEVER
    new = sorted((number, token) for token, number in ids.items() if number >= len(pieces))
    if [number for number, _ in new] != list(range(len(pieces), len(pieces) + len(new))):
        raise InputError(f"{source.folder}: its token IDs are not consecutive, so no tokens can be added")
    return [*pieces, *([token, lowest] for _, token in new)]


def _text(value: Mapping[str, Any]) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
