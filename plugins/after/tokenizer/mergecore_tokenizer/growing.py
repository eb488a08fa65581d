"""A tokenizer.json with more tokens: ordinary text is cut as before, and every number is kept.

The tokens go into the model's own vocabulary, where no merge makes them, and not among the added tokens, which are cut
out of text before anything else: a donor's "ing" would tear the base's "Ġrunning" apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergecore.api import InputError
from mergecore_tokenizer.reading import Entry, Read

NEVER = 1e4
"""How much worse than the worst piece a new one of a Unigram model scores, so that no text is cut into it."""


def grown(source: Read, ids: Mapping[str, int], added: Mapping[str, Entry]) -> dict[str, Any]:
    """The content of a tokenizer.json.

    Args:
        source: the tokenizer that grows.
        ids: every token of the result; the source's own keep their numbers.
        added: its added tokens, each with its number.

    Raises:
        InputError: the tokenizer cannot hold these numbers.
    """
    from tokenizers import Tokenizer

    value = dict(source.build())
    model = value["model"] = dict(value["model"])
    vocabulary = model["vocab"]
    model["vocab"] = _pieces(source, vocabulary, ids) if isinstance(vocabulary, list) else {**vocabulary, **ids}
    value["added_tokens"] = sorted(added.values(), key=lambda entry: int(entry["id"]))
    check = Tokenizer.from_str(_text(value)).get_vocab(with_added_tokens=True)
    if check != ids:
        token = next(token for token in ids if check.get(token) != ids[token])
        raise InputError(f"{source.folder}: its tokenizer cannot give {token!r} the number {ids[token]}")
    return value


def _pieces(source: Read, pieces: list[Any], ids: Mapping[str, int]) -> list[Any]:
    """A Unigram model's pieces, which are numbered by their place."""
    lowest = min(score for _, score in pieces) - NEVER
    new = sorted((number, token) for token, number in ids.items() if number >= len(pieces))
    if [number for number, _ in new] != list(range(len(pieces), len(pieces) + len(new))):
        raise InputError(f"{source.folder}: its tokens are not numbered one after the other, so none can be added")
    return [*pieces, *([token, lowest] for _, token in new)]


def _text(value: Mapping[str, Any]) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
