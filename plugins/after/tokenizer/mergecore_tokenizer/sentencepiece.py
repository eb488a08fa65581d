"""Read SentencePiece models from protobuf files and convert them to tokenizer.json.

The file is a `ModelProto` of https://github.com/google/sentencepiece (sentencepiece_model.proto). Only the pieces, the
model type, and the character map are read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api import ModelError
from mergecore_tokenizer.files import read_bytes

BPE = 2
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4


@dataclass(frozen=True)
class Piece:
    """One token with its text, score, and type."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """Content of a SentencePiece file."""

    pieces: Sequence[Piece]
    bpe: bool
    byte_fallback: bool
    characters: bytes
    """Precompiled character map of the normalizer. Empty if there is none."""


def read(path: Path) -> Model:
    """Return the model in a file.

    Raises:
        ModelError: the file is not a SentencePiece model.
    """
    try:
        pieces: list[Piece] = []
        trainer: dict[int, Any] = {}
        normalizer: dict[int, Any] = {}
        for number, value in _fields(read_bytes(path)):
            if number == 1:
                entry = dict(_fields(value))
                score = struct.unpack("<f", entry[2])[0] if 2 in entry else 0.0
                pieces.append(Piece(entry[1].decode("utf-8"), score, entry.get(3, 1)))
            elif number in (2, 3):
                (trainer if number == 2 else normalizer).update(_fields(value))
        model = Model(pieces, trainer.get(3, 1) == BPE, bool(trainer.get(35, 0)), normalizer.get(2, b""))
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, struct.error):
        raise ModelError(f"{path}: is not a SentencePiece model; download it again") from None
    if not pieces:
        raise ModelError(f"{path}: is a SentencePiece model without pieces; download it again")
    return model


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a protobuf message: field number, and an int or bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if length is None:
            if kind != 2:
                raise ValueError("not a protobuf message")
            length, at = _varint(data, at)
        if at + length > len(data):
            raise ValueError("the message is truncated")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift >= 70:
            raise ValueError("a number has more than 64 bits")


def added_tokens(model: Model) -> dict[str, dict[str, Any]]:
    """Return the pieces that never match ordinary text, as entries of a tokenizer.json."""
    kinds = (UNKNOWN, CONTROL, USER_DEFINED)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        piece.text: {"id": number, "content": piece.text, **flags, "special": piece.kind != USER_DEFINED}
        for number, piece in enumerate(model.pieces)
        if piece.kind in kinds
    }


def as_tokenizer(model: Model) -> dict[str, Any]:
    """Return the equivalent tokenizer.json, which adds no special tokens around a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    unknown = next((number for number, piece in enumerate(model.pieces) if piece.kind == UNKNOWN), None)
    if model.bpe:
        name = model.pieces[unknown].text if unknown is not None else None
        ids = {piece.text: number for number, piece in enumerate(model.pieces)}
        options = {"unk_token": name, "fuse_unk": True, "byte_fallback": model.byte_fallback}
        tokenizer = Tokenizer(models.BPE(ids, merges(model), **options))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(steps)
    else:
        scored = [(piece.text, piece.score) for piece in model.pieces]
        tokenizer = Tokenizer(models.Unigram(scored, unknown, model.byte_fallback))
        if model.characters:
            tokenizer.normalizer = normalizers.Precompiled(model.characters)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    value: dict[str, Any] = json.loads(tokenizer.to_str())
    value["added_tokens"] = list(added_tokens(model).values())
    return value


def merges(model: Model) -> list[tuple[str, str]]:
    """Return the merges of a BPE model: every pair of pieces that forms a piece, best score first."""
    ids: Mapping[str, int] = {piece.text: number for number, piece in enumerate(model.pieces)}
    found = []
    for piece in model.pieces:
        pairs = [(piece.text[:cut], piece.text[cut:]) for cut in range(1, len(piece.text))]
        known = sorted((ids[left], ids[right]) for left, right in pairs if left in ids and right in ids)
        found += [(-piece.score, left, right) for left, right in known]
    found.sort(key=lambda item: item[0])
    return [(model.pieces[left].text, model.pieces[right].text) for _, left, right in found]
