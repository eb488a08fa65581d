"""Tokenize prompts with the base's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api import TOKENIZER_BYTES, ModelError, encode_texts, read_json
from mergecore.tooling import Place
from mergecore_moe.config import Expert


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
        ModelError: tokenizer.json is missing.
    """

    def __init__(self, folder: Path, rows: int, longest: int | None) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            save = f"from transformers import AutoTokenizer as T; T.from_pretrained({str(folder)!r}).save_pretrained"
            raise ModelError(
                f"{path}: is missing, but required for prompts; to create it from other tokenizer files:"
                f' python -c "{save}({str(folder)!r})"'
            )
        self._path, self._first, self._rows, self._longest = path, _first_token(folder), rows, longest

    def of(self, experts: Sequence[Expert]) -> list[Prompts]:
        """Return the prompts of each expert as token IDs.

        Raises:
            InputError: A prompt does not fit the model, or the tokenizer takes too much time or memory.
        """
        texts = [self._first + text for expert in experts for text in (*expert.positive, *expert.negative)]
        ids = iter(encode_texts(self._path, texts))
        found = []
        for expert in experts:
            positive, negative = (
                [
                    self._checked(next(ids), text, expert.place.child(key).child(number))
                    for number, text in enumerate(texts)
                ]
                for key, texts in (("positive_prompts", expert.positive), ("negative_prompts", expert.negative))
            )
            found.append(Prompts(positive, negative))
        return found

    def _checked(self, ids: list[int], text: str, place: Place) -> list[int]:
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
            token: Any = read_json(path, TOKENIZER_BYTES).get("bos_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
    return ""
