"""Tokenizer-independent meanings of tokens, and matches between the tokens of two vocabularies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

Meaning = bytes | int
"""The bytes of a token's text, with a space at the start of a word, or the value of a byte token like ``<0x0A>``."""

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
LIMIT = 10**7
"""Maximum size of a tokenizer's settings in bytes."""


@dataclass(frozen=True)
class Tokens:
    """A model's vocabulary.

    Attributes:
        folder: Folder of the model.
        numbers: ID of every token.
        rows: Number of rows in its tables. Tokens with higher IDs have no row.
    """

    folder: Path
    numbers: Mapping[str, int]
    rows: int

    @cached_property
    def meanings(self) -> Mapping[int, Meaning]:
        """Meaning by row, in order."""
        style = _style(self.numbers)
        items = sorted((number, token) for token, number in self.numbers.items() if number < self.rows)
        return {number: _meaning(token, style) for number, token in items}

    @cached_property
    def by_meaning(self) -> Mapping[Meaning, int]:
        """First row of each meaning."""
        found: dict[Meaning, int] = {}
        for number, meaning in self.meanings.items():
            found.setdefault(meaning, number)
        return found

    @cached_property
    def roles(self) -> Mapping[str, int]:
        """Rows of the tokens that have a role in the tokenizer's settings."""
        named: dict[str, Any] = {}
        for file in ("special_tokens_map.json", "tokenizer_config.json"):
            path = self.folder / file
            named |= read_json(path, LIMIT) if path.is_file() else {}
        texts = {role: value["content"] if isinstance(value := named.get(role), dict) else value for role in ROLES}
        numbers = {role: self.numbers.get(text, self.rows) for role, text in texts.items() if isinstance(text, str)}
        return {role: number for role, number in numbers.items() if number < self.rows}


def same(model: Tokens, donor: Tokens, size: int) -> Rows:
    """Return the model's row with the same meaning or role for each of `size` donor rows, or -1 if there is none."""
    import numpy as np

    found = np.full(size, -1, np.int64)
    for number, meaning in donor.meanings.items():
        found[number] = model.by_meaning.get(meaning, -1)
    for role, number in donor.roles.items():
        if found[number] < 0:
            found[number] = model.roles.get(role, -1)
    if model.numbers == donor.numbers:  # then rows without a token match too
        spare = np.setdiff1d(np.arange(min(size, model.rows)), list(donor.meanings))
        found[spare] = spare
    return found


def byte_row(model: Tokens, meaning: Meaning) -> int:
    """Return the model's row for the other spelling of a one-byte token, or -1 if there is none."""
    if isinstance(meaning, int):
        return model.by_meaning.get(bytes([meaning]), -1)
    return model.by_meaning.get(meaning[0], -1) if len(meaning) == 1 else -1


def prefix_row(model: Tokens, meaning: Meaning) -> int:
    """Return the model's row for the longest nonblank prefix of a token, or -1 if there is none."""
    if isinstance(meaning, int):
        return -1
    starts = (meaning[:end] for end in range(len(meaning) - 1, 0, -1))
    return next((row for start in starts if start.strip() and (row := model.by_meaning.get(start, -1)) >= 0), -1)


def text(meaning: Meaning) -> str:
    """Return the text of a token, ignoring incomplete characters."""
    return (bytes([meaning]) if isinstance(meaning, int) else meaning).decode("utf-8", errors="ignore")


def _style(numbers: Mapping[str, int]) -> str:
    """Return the most common marker of word starts or continuations (Ġ, ▁, or ##), or empty if there is none."""
    counts = {mark: sum(token.startswith(mark) for token in numbers) for mark in ("Ġ", "▁", "##")}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else ""


def _meaning(token: str, style: str) -> Meaning:
    if style == "Ġ":
        alphabet = _alphabet()
        if all(character in alphabet for character in token):
            return bytes(alphabet[character] for character in token)
    elif style == "▁":
        if found := BYTE.fullmatch(token):
            return int(found[1], 16)
        token = token.replace("▁", " ")
    elif style == "##":
        special = token.startswith("[") and token.endswith("]") and len(token) > 2
        token = token if special else token.removeprefix("##") if token.startswith("##") else f" {token}"
    return token.encode("utf-8", errors="replace")


@cache
def _alphabet() -> Mapping[str, int]:
    """Return the byte for each character in the byte-level alphabet of GPT-2. Printable bytes map to themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + n): byte for n, byte in enumerate(others)}}
