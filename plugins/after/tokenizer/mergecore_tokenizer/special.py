"""Update special token IDs in config.json and generation_config.json if the vocabulary comes from another model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mergecore.api import ModelInfo
from mergecore_tokenizer.files import as_json, read_optional
from mergecore_tokenizer.reading import Read

ENDS = ("_token_id", "_token_index")
"""Suffixes of keys that hold a token ID or a list of them."""


def changes(
    config_source: ModelInfo, source: Read, base: Read, ids: Mapping[str, int], files: dict[str, bytes]
) -> tuple[dict[str, Any], list[str]]:
    """Return the changed config values by dotted key, and notes. Add generation_config.json to the files if needed.

    Special tokens of `source` keep their roles. Tokens only in `config_source` are looked up by their text.
    """
    if source.folder.resolve() == config_source.folder.resolve():
        return {}, []
    tokens = {number: token for token, number in base.ids.items()}
    config = read_optional(source.folder / "config.json")
    roles = dict(_special(config))
    lost: list[str] = []

    def moved(key: str, value: Any, known: Mapping[str, Any]) -> Any:
        last = key.rpartition(".")[2]
        found = next((new for name, new in known.items() if name.rpartition(".")[2] == last), None)
        if found is not None:
            return found
        numbers = value if isinstance(value, list) else [value]
        new = [ids[token] for number in numbers if (token := tokens.get(number)) in ids and token is not None]
        if not new:
            lost.append(key)
        return (new if isinstance(value, list) else new[0]) if new else None

    result = {key: moved(key, value, roles) for key, value in _special(config_source.config)}
    generation = read_optional(config_source.folder / "generation_config.json")
    if generation:
        own = {**roles, **dict(_special(read_optional(source.folder / "generation_config.json")))}
        generation |= {key: moved(key, value, own) for key, value in _special(generation)}
        files["generation_config.json"] = as_json(generation)
    notes = [f"{', '.join(dict.fromkeys(lost))}: not set, because {source.reference} has no such token"] if lost else []
    return result, notes


def _special(config: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a config that hold token IDs, dotted if nested, with their values."""
    for key, value in config.items():
        if key == "text_config" and isinstance(value, Mapping):
            yield from _special(value, "text_config.")
        elif key.endswith(ENDS) and value is not None:
            yield parent + key, value
