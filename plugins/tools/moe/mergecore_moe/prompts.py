"""Prompts as the base's tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api import ModelError, read_text
from mergecore.documents import Place
from mergecore_moe.config import Expert

LIMIT = 2 * 10**8
"""Bytes that a tokenizer's file may have; the largest published ones have some 30 million."""


@dataclass(frozen=True)
class Prompts:
    """The token numbers of an expert's prompts, each at least one long."""

    positive: Sequence[Sequence[int]]
    negative: Sequence[Sequence[int]]


class Tokens:
    """A model's tokenizer, which puts the text of its first token (BOS), where it has one, before each prompt.

    Args:
        folder: of the model.
        rows: how many tokens its embedding has.
        longest: how many tokens the model takes at one time; None: it does not say.

    Raises:
        ModelError: there is no tokenizer.json, or it cannot be read.
    """

    def __init__(self, folder: Path, rows: int, longest: int | None) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            save = f"from transformers import AutoTokenizer as T; T.from_pretrained({str(folder)!r}).save_pretrained"
            raise ModelError(
                f"{path}: is not there, and prompts cannot be read without it; to make it from other tokenizer files:"
                f' python -c "{save}({str(folder)!r})"'
            )
        try:
            self._tokenizer = Tokenizer.from_str(read_text(path, LIMIT))
        except ModelError:
            raise
        except Exception as error:  # the library raises nothing more precise
            raise ModelError(f"{path}: is not a tokenizer: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._first, self._rows, self._longest = _first_token(folder), rows, longest

    def of(self, expert: Expert) -> Prompts:
        """The prompts of an expert as tokens."""
        positive, negative = (
            [self._encode(text, expert.place.child(key).child(number)) for number, text in enumerate(texts)]
            for key, texts in (("positive_prompts", expert.positive), ("negative_prompts", expert.negative))
        )
        return Prompts(positive, negative)

    def _encode(self, text: str, place: Place) -> list[int]:
        ids: list[int] = self._tokenizer.encode(self._first + text, add_special_tokens=False).ids
        if not text or not ids:
            raise place.error("is an empty prompt; write a text that the expert is for")
        if max(ids) >= self._rows:
            raise place.error(f"has a token that the base's embedding of {self._rows} rows has no row for")
        if self._longest and len(ids) > self._longest:
            raise place.error(f"has {len(ids)} tokens, and the base takes at most {self._longest}; shorten it")
        return ids


def _first_token(folder: Path) -> str:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.is_file():
            try:
                token: Any = json.loads(read_text(path, LIMIT)).get("bos_token")
            except (ValueError, AttributeError, RecursionError):
                raise ModelError(f"{path}: cannot be read as a JSON object") from None
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
    return ""
