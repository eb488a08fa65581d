"""Update special token IDs in config.json and generation_config.json if the vocabulary comes from another model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mergecore.api import ModelInfo
from mergecore_tokenizer.files import as_json, read_optional
from mergecore_tokenizer.reading import Read

ENDS = ("_token_id", "_token_index")
"""Suffixes of keys that hold a token ID or a list of them."""

ROLES = ("bos", "eos", "pad")
"""Tokens that every model can have. They are set even where the config source does not set them."""


def changes(
    config_source: ModelInfo, source: Read, base: Read, ids: Mapping[str, int], files: dict[str, bytes]
) -> tuple[dict[str, Any], list[str]]:
    """Return the changed config values by dotted key, and notes. Add generation_config.json to the files if needed.

    Special tokens of `source` keep their roles. Tokens only in `config_source` are looked up by their text.
    """
    if source.folder.resolve() == config_source.tokenizer_folder.resolve() == config_source.folder.resolve():
        return {}, []
    tokens = {number: token for token, number in base.ids.items()}
    roles = {**_stated(source), **dict(_special(read_optional(source.folder / "config.json")))}
    own = {**roles, **dict(_special(read_optional(source.folder / "generation_config.json")))}
    lost: list[str] = []

    def moved(config: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        values = {key.rpartition(".")[2]: value for key, value in known.items()}
        present = dict(_special(config))
        found = {key: moved_one(key, value, values) for key, value in present.items()}
        parent = next((key.rpartition(".")[0] for key in present), "text_config" if "text_config" in config else "")
        there = {key.rpartition(".")[2] for key in present}
        missing = (key for role in ROLES if (key := f"{role}_token_id") in values and key not in there)
        return {**found, **{f"{parent}.{key}" if parent else key: values[key] for key in missing}}

    def moved_one(key: str, value: Any, known: Mapping[str, Any]) -> Any:
        found = known.get(key.rpartition(".")[2])
        if found is not None:
            return found
        numbers = value if isinstance(value, list) else [value]
        new = [ids[token] for number in numbers if (token := tokens.get(number)) in ids and token is not None]
        if not new:
            lost.append(key)
        return (new if isinstance(value, list) else new[0]) if new else None

    result = moved(config_source.config, roles)
    generation = read_optional(config_source.folder / "generation_config.json")
    settings = moved({key: value for key, value in generation.items() if key != "text_config"}, own)
    if generation or settings != {key.rpartition(".")[2]: value for key, value in result.items()}:
        files["generation_config.json"] = as_json({**generation, **settings})
    notes = [f"{', '.join(dict.fromkeys(lost))}: not set, because {source.reference} has no such token"] if lost else []
    return result, notes


def _stated(source: Read) -> dict[str, Any]:
    """Return the IDs of the tokens whose roles tokenizer_config.json states."""
    settings = read_optional(source.folder / "tokenizer_config.json")
    found = {}
    for role in ROLES:
        token = settings.get(f"{role}_token")
        text = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(text, str) and text in source.ids:
            found[f"{role}_token_id"] = source.ids[text]
    return found


def _special(config: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a config that hold token IDs, dotted if nested, with their values."""
    for key, value in config.items():
        if key == "text_config" and isinstance(value, Mapping):
            yield from _special(value, "text_config.")
        elif key.endswith(ENDS) and value is not None:
            yield parent + key, value
