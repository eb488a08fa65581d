"""What a tokenizer class of transformers does besides its vocabulary, for models without a tokenizer.json.

A file such as tokenizer.model has only the vocabulary. The class knows the start and end tokens, the pattern that
splits text into words, and the normalization.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergecore_tokenizer.files import read_optional

STARTS = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
"""Prefixes of classes that put the start token before a text unless add_bos_token is false."""


def as_class(folder: Path, value: dict[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """Return a tokenizer.json that tokenizes text as the model's class does.

    This asks the class itself if transformers is installed. Otherwise, only start and end tokens are added.

    Args:
        folder: folder of the model.
        value: a tokenizer.json with its vocabulary.
        ids: the ID of every token.
    """
    return _by_class(folder, ids) or _framed(value, read_optional(folder / "tokenizer_config.json"), ids)


def _by_class(folder: Path, ids: Mapping[str, int]) -> dict[str, Any] | None:
    """Return the tokenizer.json of the class, or None if it is not available or has another vocabulary."""
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        made = tokenizer.backend_tokenizer
        known = made.get_vocab(with_added_tokens=True)
        return json.loads(made.to_str()) if ids == known else None
    except Exception:  # a stranger's files can cause any error, and our own conversion remains
        return None


def _framed(value: dict[str, Any], settings: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """Add the start and end tokens that tokenizer_config.json asks for."""
    starts = str(settings.get("tokenizer_class", "")).startswith(STARTS)
    tokens = {
        "bos": _text(settings.get("bos_token")) if settings.get("add_bos_token", starts) else None,
        "eos": _text(settings.get("eos_token")) if settings.get("add_eos_token", False) else None,
    }
    if value.get("post_processor") or not any(token in ids for token in tokens.values() if token):
        return value

    def template(*sequences: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        for place, sequence in enumerate(sequences):
            first = [{"SpecialToken": {"id": tokens["bos"], "type_id": place}}] if tokens["bos"] else []
            last = [{"SpecialToken": {"id": tokens["eos"], "type_id": place}}] if tokens["eos"] else []
            items += [*first, {"Sequence": {"id": sequence, "type_id": place}}, *last]
        return items

    special = {
        token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in tokens.values() if token in ids
    }
    single, pair = template("A"), template("A", "B")
    frame = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    return {**value, "post_processor": frame}


def _text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None
