"""What a config.json says, by keys that are dotted where nested."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mergecore.errors import ArchitectureError

Keys = tuple[str, ...]
"""Dotted keys of which the first that has a value counts."""


def class_name(config: Mapping[str, Any], model: str) -> str:
    """The one class name in a config.json.

    Raises:
        ArchitectureError: there is none, or several.
    """
    names = config.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        if not names[0].isidentifier():
            raise ArchitectureError(f"{model}: config.json: {names[0]!r} is no class name")
        return names[0]
    raise ArchitectureError(f'{model}: config.json must name one model class, as "architectures": ["LlamaForCausalLM"]')


def get_key(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none.

    Where a composite's nested config is absent altogether, the key is looked up beside it: a language model's own
    config has ``num_hidden_layers`` where the composite that contains it has ``text_config.num_hidden_layers``.
    """
    parent, _, rest = key.partition(".")
    if not rest:
        return config.get(parent)
    inner = config.get(parent, config)
    return get_key(inner, rest) if isinstance(inner, Mapping) else None


def first_of(config: Mapping[str, Any], keys: Keys) -> Any:
    """The value at the first of several dotted keys that has one; None where none has."""
    return next((value for key in keys if (value := get_key(config, key)) is not None), None)


def with_keys(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with the values at dotted keys replaced."""
    result: dict[str, Any] = json.loads(json.dumps(config))
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = result
        for part in parents:
            if not isinstance(inner.get(part), dict):
                inner[part] = {}
            inner = inner[part]
        inner[last] = value
    return result


def leaves(config: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config that is no mapping, with its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{parent}{key}.")
        else:
            yield parent + str(key), value


def written_key(config: Mapping[str, Any], keys: Keys) -> str:
    """The one of several dotted keys under which a config states its value, as `with_keys` wants it."""
    key = next((key for key in keys if get_key(config, key) is not None), keys[0])
    parent, _, rest = key.partition(".")
    return key if not rest or parent in config else written_key(config, (rest,))


TIES = ("tie_word_embeddings", "text_config.tie_word_embeddings")
"""Where a config says whether the head is the embedding."""


def tie_keys(config: Mapping[str, Any], tied: bool) -> dict[str, bool]:
    """What must change in a config for it to say that the head is the embedding, or is not."""
    present = {written_key(config, (key,)) for key in TIES if get_key(config, key) is not None}
    return {key: tied for key in present or TIES[:1] if get_key(config, key) is not tied}


@dataclass(frozen=True)
class Period:
    """After how many layers their kinds repeat.

    Attributes:
        key: of that number in config.json.
        default: the number where the config has none.
        unless: keys of lists that say of each layer what kind it is; where there is one, the number says nothing.
    """

    key: str
    default: int | None = None
    unless: Keys = ()

    def of(self, config: Mapping[str, Any]) -> int:
        """The number that a config gives; 1, which every layer is a multiple of, where it gives none."""
        value = get_key(config, self.key)
        value = self.default if value is None else value
        lists = any(isinstance(get_key(config, key), list) and get_key(config, key) for key in self.unless)
        return value if isinstance(value, int) and value > 1 and not lists else 1
