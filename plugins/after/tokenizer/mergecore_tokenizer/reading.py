"""Read a model folder's tokenizer in any format: its tokens, their IDs, and the equivalent tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mergecore.api import ModelError
from mergecore_tokenizer import sentencepiece, tiktoken
from mergecore_tokenizer.class_behavior import as_class
from mergecore_tokenizer.files import read_bytes, read_optional

Entry = Mapping[str, Any]
"""A token as listed in tokenizer.json under `added_tokens`."""


@dataclass(frozen=True)
class Read:
    """A model folder's tokenizer.

    Attributes:
        reference: the model as written in the recipe.
        folder: the folder with its files.
        ids: the ID of every token.
        added: the tokens that are matched before text is split into words.
        build: returns the content of the equivalent tokenizer.json.
    """

    reference: str
    folder: Path
    ids: Mapping[str, int]
    added: Mapping[str, Entry]
    build: Callable[[], dict[str, Any]]


def read(reference: str, folder: Path) -> Read | None:
    """Return the tokenizer in a model folder, or None if there is none.

    Raises:
        ModelError: a file is invalid.
    """
    for form, known in FORMS.items():
        if path := next(iter(sorted(folder.glob(form))), None):
            ids, added, build = known(path)
            ids, added = dict(ids), dict(added)
            for entry in _beside(folder):
                if entry["content"] not in ids:
                    ids[entry["content"]], added[entry["content"]] = entry["id"], entry
            if known is not _fast:
                build = partial(_built, folder, build, ids, added)
            return Read(reference, folder, ids, added, build)
    return None


def _built(
    folder: Path, build: Callable[[], dict[str, Any]], ids: Mapping[str, int], added: Mapping[str, Entry]
) -> dict[str, Any]:
    value = build()
    listed = {entry["content"] for entry in value.get("added_tokens") or ()}
    more = [dict(entry) for token, entry in added.items() if token not in listed]
    return as_class(folder, {**value, "added_tokens": [*(value.get("added_tokens") or ()), *more]}, ids)


Known = tuple[Mapping[str, int], Mapping[str, Entry], Callable[[], dict[str, Any]]]


def _fast(path: Path) -> Known:
    value = read_optional(path)
    try:
        vocabulary = value["model"]["vocab"]
        listed = isinstance(vocabulary, list)
        ids = {piece[0]: number for number, piece in enumerate(vocabulary)} if listed else dict(vocabulary)
        added = {entry["content"]: entry for entry in value.get("added_tokens") or ()}
        numbers = {token: entry["id"] for token, entry in added.items()}
    except (KeyError, TypeError, ValueError, IndexError):
        raise ModelError(f"{path}: is not a tokenizer of the tokenizers library; download it again") from None
    return {**numbers, **ids}, added, lambda: value


def _byte_level(path: Path) -> Known:
    def build() -> dict[str, Any]:
        from tokenizers import ByteLevelBPETokenizer

        merges = path.with_name("merges.txt")
        if not merges.is_file():
            raise ModelError(f"{merges}: no such file; {path.name} cannot be used without it")
        return json.loads(ByteLevelBPETokenizer(str(path), str(merges)).to_str())  # type: ignore[no-any-return]

    return read_optional(path), {}, build


def _sentencepiece(path: Path) -> Known:
    model = sentencepiece.read(path)
    ids = {piece.text: number for number, piece in enumerate(model.pieces)}
    return ids, sentencepiece.added_tokens(model), lambda: sentencepiece.as_tokenizer(model)


def _ranks(path: Path) -> Known:
    ranks, alphabet = tiktoken.read(path), tiktoken.characters()
    ids = {tiktoken.as_text(token, alphabet): number for token, number in ranks.items()}
    return ids, {}, lambda: tiktoken.as_tokenizer(ranks)


def _words(path: Path) -> Known:
    def build() -> dict[str, Any]:
        from tokenizers import BertWordPieceTokenizer

        lower = read_optional(path.with_name("tokenizer_config.json")).get("do_lower_case", True)
        return json.loads(BertWordPieceTokenizer(str(path), lowercase=lower).to_str())  # type: ignore[no-any-return]

    lines = read_bytes(path).decode("utf-8").split("\n")
    return {token: number for number, token in enumerate(lines) if token}, {}, build


FORMS: Mapping[str, Callable[[Path], Known]] = {
    "tokenizer.json": _fast,
    "vocab.json": _byte_level,
    "tokenizer.model": _sentencepiece,
    "spiece.model": _sentencepiece,
    "*.tiktoken": _ranks,
    "vocab.txt": _words,
}
"""Supported tokenizer files, best first."""

PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
"""Default flags of an added token."""


def _beside(folder: Path) -> list[dict[str, Any]]:
    """Return the tokens that files other than the vocabulary add to it."""
    entries = []
    for number, entry in (read_optional(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}).items():
        entries.append({**PLAIN, **entry, "id": int(number)})
    for token, number in read_optional(folder / "added_tokens.json").items():
        entries.append({**PLAIN, "content": token, "id": number})
    return entries
