"""Tokenize prompts with the base's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api import ModelError, read_json, read_text
from mergecore.tooling import Place
from mergecore_moe.config import Expert

LIMIT = 2 * 10**8
"""Maximum size of a tokenizer file in bytes. The largest published ones are about 30 MB."""


@dataclass(frozen=True)
class Prompts:
    """The token IDs of an expert's prompts, which are never empty."""

    positive: Sequence[Sequence[int]]
    negative: Sequence[Sequence[int]]


class Tokens:
    """A model's tokenizer, which prepends the text of the BOS token, if there is one, to each prompt.

    Args:
        folder: Folder of the model.
        rows: Number of rows in its embedding.
        longest: Maximum number of tokens in the model's context. None: unknown.

    Raises:
        ModelError: tokenizer.json is missing or cannot be read.
    """

    def __init__(self, folder: Path, rows: int, longest: int | None) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            save = f"from transformers import AutoTokenizer as T; T.from_pretrained({str(folder)!r}).save_pretrained"
            raise ModelError(
                f"{path}: is missing, but required for prompts; to create it from other tokenizer files:"
                f' python -c "{save}({str(folder)!r})"'
            )
        try:
            self._tokenizer = Tokenizer.from_str(read_text(path, LIMIT))
        except ModelError:
            raise
        except Exception as error:  # the library raises nothing more specific
            raise ModelError(f"{path}: is not a valid tokenizer: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._first, self._rows, self._longest = _first_token(folder), rows, longest

    def of(self, expert: Expert) -> Prompts:
        """Return the prompts of an expert as token IDs."""
        positive, negative = (
            [self._encode(text, expert.place.child(key).child(number)) for number, text in enumerate(texts)]
            for key, texts in (("positive_prompts", expert.positive), ("negative_prompts", expert.negative))
        )
        return Prompts(positive, negative)

    def _encode(self, text: str, place: Place) -> list[int]:
        ids: list[int] = self._tokenizer.encode(self._first + text, add_special_tokens=False).ids
        if not text or not ids:
            raise place.error("is an empty prompt; write text that the expert is meant for")
        if max(ids) >= self._rows:
            raise place.error(f"has a token outside the {self._rows} rows of the base's embedding")
        if self._longest and len(ids) > self._longest:
            raise place.error(f"has {len(ids)} tokens, but the base supports at most {self._longest}; shorten it")
        return ids


def _first_token(folder: Path) -> str:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.is_file():
            token: Any = read_json(path, LIMIT).get("bos_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
    return ""
