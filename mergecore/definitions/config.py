"""Access values in a config.json by dotted keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mergecore.errors import ArchitectureError

Keys = tuple[str, ...]
"""Alternative dotted keys. The first one that has a value is used."""


def class_name(config: Mapping[str, Any], model: str) -> str:
    """Return the single class name in a config.json.

    Raises:
        ArchitectureError: if there is no class name, or more than one.
    """
    names = config.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        if not names[0].isidentifier():
            raise ArchitectureError(f"{model}: config.json: {names[0]!r} is not a class name")
        return names[0]
    raise ArchitectureError(f'{model}: config.json must name one model class, as "architectures": ["LlamaForCausalLM"]')


def get_key(config: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key, or None if there is none.

    If a nested config is missing, look up the rest of the key at the level above. For example, the config of a language
    model has ``num_hidden_layers``, but a vision-language model has ``text_config.num_hidden_layers``.
    """
    parent, _, rest = key.partition(".")
    if not rest:
        return config.get(parent)
    inner = config.get(parent, config)
    return get_key(inner, rest) if isinstance(inner, Mapping) else None


def first_of(config: Mapping[str, Any], keys: Keys) -> Any:
    """Return the value at the first dotted key that has one, or None."""
    return next((value for key in keys if (value := get_key(config, key)) is not None), None)


def with_keys(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a config with the values at dotted keys replaced."""
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
    """Yield every value in a config that is not a mapping, with its dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{parent}{key}.")
        else:
            yield parent + str(key), value


def written_key(config: Mapping[str, Any], keys: Keys) -> str:
    """Return the dotted key, among alternatives, that a config uses. The result is suitable for `with_keys`."""
    key = next((key for key in keys if get_key(config, key) is not None), keys[0])
    parent, _, rest = key.partition(".")
    return key if not rest or parent in config else written_key(config, (rest,))


TIED_KEYS = ("tie_word_embeddings", "text_config.tie_word_embeddings")
"""Config keys for whether the head is tied to the embedding."""


def is_tied(config: Mapping[str, Any]) -> bool:
    """Return whether a config ties the head to the embedding."""
    return any(get_key(config, key) is True for key in TIED_KEYS)


def denies_ties(config: Mapping[str, Any]) -> bool:
    """Return whether a config says that the head is separate from the embedding. Older configs say nothing if tied."""
    return any(get_key(config, key) is False for key in TIED_KEYS) and not is_tied(config)


def tie_keys(config: Mapping[str, Any], tied: bool) -> dict[str, bool]:
    """Return the changes that a config needs so that the head is tied to the embedding, or is not."""
    present = {written_key(config, (key,)) for key in TIED_KEYS if get_key(config, key) is not None}
    return {key: tied for key in present or TIED_KEYS[:1] if get_key(config, key) is not tied}


@dataclass(frozen=True)
class Period:
    """The number of layers after which the layer types repeat.

    Attributes:
        key: config.json key of the number.
        default: the number if the config has none.
        unless: config.json keys of lists with the type of each layer. If such a list exists, ignore the number.
    """

    key: str
    default: int | None = None
    unless: Keys = ()

    def of(self, config: Mapping[str, Any]) -> int:
        """Return the number in a config, or 1 if there is none, which does not restrict the layers."""
        value = get_key(config, self.key)
        value = self.default if value is None else value
        lists = any(isinstance(get_key(config, key), list) and get_key(config, key) for key in self.unless)
        return value if isinstance(value, int) and value > 1 and not lists else 1
