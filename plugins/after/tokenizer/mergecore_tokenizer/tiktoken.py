"""Read tiktoken rank files, which have a token's bytes in base64 and its ID on each line."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from mergecore.api import ModelError
from mergecore_tokenizer.files import read_bytes

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Word split pattern of models with rank files. The files themselves do not contain it."""


def read(path: Path) -> dict[bytes, int]:
    """Return the ID of every token.

    Raises:
        ModelError: the file is not a rank file.
    """
    try:
        pairs = (line.split() for line in read_bytes(path).splitlines() if line.strip())
        return {base64.b64decode(token, validate=True): int(number) for token, number in pairs}
    except (OSError, ValueError):
        raise ModelError(f"{path}: is not a tiktoken rank file; download it again") from None


def characters() -> dict[int, str]:
    """Return byte-level BPE's character for each byte: itself if printable, otherwise the next one from 256 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


def as_text(token: bytes, alphabet: Mapping[int, str]) -> str:
    return "".join(alphabet[byte] for byte in token)


def as_tokenizer(ranks: Mapping[bytes, int]) -> dict[str, Any]:
    """Return the equivalent tokenizer.json."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    alphabet = characters()
    pairs = (_last_merge(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1)
    merges = [(as_text(left, alphabet), as_text(right, alphabet)) for left, right in filter(None, pairs)]
    tokenizer = Tokenizer(models.BPE({as_text(token, alphabet): n for token, n in ranks.items()}, merges))
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, level])
    tokenizer.decoder = decoders.ByteLevel()
    value: dict[str, Any] = json.loads(tokenizer.to_str())
    return value


def _last_merge(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """Return the two tokens that merge into this one: what remains of its bytes after all merges of lower rank."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, ranks[token]) for left, right in pairwise(parts)]
        best = min(joined)
        if best >= ranks[token]:
            return None  # not reachable by merges
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return (parts[0], parts[1]) if all(part in ranks for part in parts) else None
