"""Infer an architecture definition from a checkpoint's headers and config, for model classes without a definition."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergecore.api import TensorInfo
from mergecore.definitions.config import get_key, leaves

NUMBERED = re.compile(r"^(?P<prefix>(?:.*?\.)?)(?P<number>\d+)\.(?P<rest>.+)$")
LAYER_COUNT = re.compile(
    r"(^|\.)(n_layers?|depth|num_blocks|(num_)?(hidden_|(encoder|decoder)_)?layers|num_layers|num_hidden_blocks)$"
)
EXPERT_COUNT = re.compile(r"(^|\.)[a-z_]*experts$")
LAYER_LIST = re.compile(r"layer|block|pattern")
"""Config keys of lists and strings whose length is the layer count if the config has no count."""
NOT_OF_LAYERS = re.compile(r"token|architectures|lang|keys_to_ignore|label")
"""Config keys of lists that can be as long as the model is deep by chance."""
FIRST = re.compile(r"embed|wte|wpe|patch|position|token|stem|conv")
IGNORED = re.compile(r"(^|\.)(mtp|nextn)([._]|$)|rotary_emb\.inv_freq$|\.masked_bias$")
"""Weights that classes ignore when they load a model: those that predict more than one token, and computed buffers."""
SHARED = re.compile(r"(^|\.)(k_proj|v_proj|k_norm|v_norm)\.")
"""Weights that layers do not use if they share the keys and values of earlier layers."""
EXTRA_COUNT = re.compile(r"(^|\.)(num_nextn_predict_layers|num_mtp_layers)$")
"""Config keys of the number of layers for multi-token prediction, which some models store after the counted layers."""
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "output_layer.weight", "decoder.weight")
EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "tok_embeddings.weight", "wte.weight")
PARTS = frozenset({"encoder", "decoder", "vision", "audio", "speech", "text", "qformer"})
OTHER_MODALITIES = frozenset({"vision", "audio", "speech", "qformer"})
SYNONYMS = {"language": "text", "visual": "vision"}

Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Stack:
    """Weights numbered from 0 under one prefix: the rest of their names per layer, and the config key of the count.

    `extra` is the key of the number of layers that follow the counted ones, if there are any.
    """

    prefix: str
    layers: tuple[frozenset[str], ...]
    key: str
    count: int
    extra: str | None = None

    @property
    def of_text(self) -> bool:
        """Whether it belongs to the language model, as opposed to a model of another modality next to it."""
        return not _parts(self.prefix) & OTHER_MODALITIES

    def has(self, name: str) -> bool:
        found = NUMBERED.match(name)
        return found is not None and found["prefix"] == self.prefix


def is_ignored(config: Mapping[str, Any], name: str) -> bool:
    """Return True if a class that nobody has described ignores a weight when it loads a model."""
    shares = any(key.endswith("num_kv_shared_layers") and value for key, value in leaves(config))
    return IGNORED.search(name) is not None or (shares and SHARED.search(name) is not None)


def extra_counts(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of layers for multi-token prediction in a config, by their keys."""
    return {key: value for key, value in leaves(config) if EXTRA_COUNT.search(key) and type(value) is int and value > 0}


def is_extra(config: Mapping[str, Any], name: str) -> bool:
    """Return True if a weight is in a layer for multi-token prediction, which is numbered after the counted layers."""
    found = NUMBERED.match(name)
    for key, extra in extra_counts(config).items() if found else ():
        count = get_key(config, f"{key.rpartition('.')[0]}.num_hidden_layers".lstrip("."))
        if found and type(count) is int and count <= int(found["number"]) < count + extra:
            return True
    return False


def infer_definition(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """Return the JSON of an architecture with exactly the weights of a checkpoint.

    Layers are names numbered from 0 under one prefix whose number matches a count in the config. If there are several
    stacks, each becomes a module. Weights that only some layers have are optional. If the count of a stack is
    ambiguous, its weights are listed one by one, and it cannot be sliced.
    """
    stacks = list(_stacks(config, tensors))
    loose = [name for name in tensors if not any(stack.has(name) for stack in stacks)]
    main = max(stacks, key=lambda stack: (stack.of_text, sum(map(stack.has, tensors))), default=None)
    modules = {}
    homes: list[Stack | None] = [*stacks] or [None]
    for stack in homes:
        own = [name for name in loose if _home(name, stacks, main) is stack]
        modules[_module_name(stack, stacks)] = _module(config, tensors, stack, own)
    _tie(config, tensors, list(modules.values()))
    return {"modules": modules} if len(modules) > 1 else next(iter(modules.values()))


def _stacks(config: Mapping[str, Any], tensors: Tensors) -> Iterator[Stack]:
    """Yield the stacks of layers whose count is in the config, in the order of their first weights."""
    numbered: dict[str, dict[int, set[str]]] = {}
    for name in tensors:
        if found := NUMBERED.match(name):
            numbered.setdefault(found["prefix"], {}).setdefault(int(found["number"]), set()).add(found["rest"])
    counts = [(key, value) for key, value in leaves(config) if LAYER_COUNT.search(key) and type(value) is int]
    counts = counts or _list_lengths(config)
    for prefix, layers in numbered.items():
        if sorted(layers) == list(range(len(layers))):
            for extra, more in ((None, 0), *extra_counts(config).items()):
                count = len(layers) - more
                if key := _best_key(prefix, [key for key, value in counts if value == count]):
                    rests = tuple(frozenset(layers[index]) for index in range(len(layers)))
                    yield Stack(prefix, rests, key, count, extra)
                    break


def _list_lengths(config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the length of the first pattern, or list of texts, with an entry per layer, by its key, or nothing."""
    for key, value in config.items():
        texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if LAYER_LIST.search(key) and (texts or (isinstance(value, str) and "pattern" in key)):
            return [(key, len(value))]
    return []


def _best_key(prefix: str, keys: Sequence[str]) -> str | None:
    """Return the count key whose words match a prefix best, or None if there is a tie or no match."""
    here = _parts(prefix)

    def misfit(key: str) -> tuple[int, int]:
        there = _parts(key)
        foreign = there - here - ({"text"} if not here & {"vision", "audio", "speech"} else set())
        return len(foreign), -len(there & here)

    fitting = sorted((key for key in keys if misfit(key)[0] == 0), key=misfit)
    alike = [key for key in fitting if misfit(key) == misfit(fitting[0])]
    return alike[0] if len(alike) == 1 else None


def _parts(text: str) -> set[str]:
    return {SYNONYMS.get(word, word) for word in re.split(r"[._]", text)} & PARTS


def _home(name: str, stacks: Sequence[Stack], main: Stack | None) -> Stack | None:
    """Return the stack whose prefix shares the most components with a name, or the main stack if none does."""

    def common(stack: Stack) -> int:
        pairs = zip(name.split("."), stack.prefix.split("."))
        return next((count for count, (one, other) in enumerate(pairs) if one != other), len(stack.prefix))

    most = max(map(common, stacks), default=0)
    best = [stack for stack in stacks if common(stack) == most]
    return best[0] if most and len(best) == 1 else main


def _module_name(stack: Stack | None, stacks: Sequence[Stack]) -> str:
    if stack is None or len(stacks) == 1:
        return "default"
    short = re.sub(r"\.?(layers?|blocks?|h)\.$", "", stack.prefix)
    others = [re.sub(r"\.?(layers?|blocks?|h)\.$", "", other.prefix) for other in stacks if other is not stack]
    return short if short and short not in others else stack.prefix.rstrip(".")


def _module(config: Mapping[str, Any], tensors: Tensors, stack: Stack | None, loose: Sequence[str]) -> dict[str, Any]:
    """Return the JSON of one stack with the weights before and after it."""
    vocabulary = {value for key, value in leaves(config) if key.split(".")[-1] == "vocab_size"}
    first = [name for name in loose if FIRST.search(name) and not name.endswith(HEADS)]
    after = [name for name in loose if name not in first]
    result: dict[str, Any] = {}
    if stack is not None:
        result["layers"] = {"count": stack.key, "prefix": stack.prefix + "{layer}."}
        if stack.extra:
            result["layers"]["extra"] = [stack.extra]
        if keys := list(_per_layer_keys(config, stack)):
            result["per_layer_config"] = keys
        if keys := [key for key in _layer_number_keys(config, stack) if key not in keys]:
            result["layer_numbers"] = keys
    result["before"] = [_entry(name, tensors[name], vocabulary, config) for name in first]
    if stack is not None:
        result["layer"] = _layer_entries(config, stack)
    result["after"] = [_entry(name, tensors[name], vocabulary, config) for name in after]
    return result


def _entry(name: str, info: TensorInfo, vocabulary: Collection[int], config: Mapping[str, Any]) -> Any:
    axis = next((axis for axis, size in enumerate(info.shape) if size in vocabulary and size > 1), None)
    found: dict[str, Any] = {"name": name} if axis is None else {"name": name, "vocabulary_axis": axis}
    if is_ignored(config, name):
        found["ignored"] = True
    return found if len(found) > 1 else name


def _siblings(config: Mapping[str, Any], stack: Stack) -> Iterator[tuple[str, Any]]:
    """Yield the config entries, with their dotted keys, that are next to the layer count."""
    parent = stack.key.rpartition(".")[0]
    inner = get_key(config, parent) if parent else config
    for key, value in inner.items():
        yield (f"{parent}.{key}" if parent else key), value


def _per_layer_keys(config: Mapping[str, Any], stack: Stack) -> Iterator[str]:
    """Yield the config keys with one entry per layer: lists, pattern strings, and mappings keyed by layer number."""
    count = stack.count
    for key, value in _siblings(config, stack):
        last = key.rpartition(".")[2]
        sequence = isinstance(value, list) or (isinstance(value, str) and "pattern" in last)
        by_number = isinstance(value, Mapping) and set(value) == set(map(str, range(count)))
        if by_number or (sequence and len(value) == count and not NOT_OF_LAYERS.search(last)):
            yield key


def _layer_number_keys(config: Mapping[str, Any], stack: Stack) -> Iterator[str]:
    """Yield the config keys of lists of layer numbers that are exactly the layers with, or without, some weight."""
    names = set[str]().union(*stack.layers)
    kinds = [{index for index, layer in enumerate(stack.layers) if name in layer} for name in names]
    every = set(range(len(stack.layers)))
    for key, value in _siblings(config, stack):
        if isinstance(value, list) and value and all(type(item) is int for item in value):
            listed = set(value)
            if listed < every and any(listed in (kind, every - kind) for kind in kinds):
                yield key


def _layer_entries(config: Mapping[str, Any], stack: Stack) -> list[Any]:
    """Return the weights of a layer. Experts whose count is in the config become one entry."""
    names = dict.fromkeys(name for layer in stack.layers for name in sorted(layer))
    counts = {value: key for key, value in leaves(config) if EXPERT_COUNT.search(key) and type(value) is int}
    entries: dict[str, Any] = {}
    for name in names:
        key = _expert_key(name, stack, counts)
        label = NUMBERED.sub(r"\g<prefix>{expert}.\g<rest>", name) if key else name
        entry: dict[str, Any] = {"name": label}
        if not all(name in layer for layer in stack.layers):
            entry["optional"] = True
        if is_ignored(config, stack.prefix + name):
            entry["ignored"] = True
        if key is not None:
            entry["each"] = {"expert": key}
        entries[label] = entry if len(entry) > 1 else label
    return list(entries.values())


def _expert_key(name: str, stack: Stack, counts: Mapping[int, str]) -> str | None:
    """Return the config key with the number of experts of a numbered weight, if the numbers match it."""
    found = NUMBERED.match(name)
    if found is None:
        return None
    like = {f"{found['prefix']}{number}.{found['rest']}": number for number in range(max(counts, default=0) + 1)}
    present = {like[other] for layer in stack.layers for other in layer if other in like}
    whole = all(len(layer & like.keys()) in (0, len(present)) for layer in stack.layers)
    return counts.get(len(present)) if whole and present == set(range(len(present))) else None


def _tie(config: Mapping[str, Any], tensors: Tensors, modules: Sequence[dict[str, Any]]) -> None:
    """Mark the head that can be missing because it is tied to the embedding."""
    lists = [entries for module in modules for entries in (module["before"], module["after"])]
    tables = [
        entry
        for entries in lists
        for entry in entries
        if isinstance(entry, dict) and len(tensors[entry["name"]].shape) == 2
    ]
    heads = [entry for entry in tables if entry["name"].endswith(HEADS)]
    embeddings = [entry for entry in tables if entry not in heads]
    embeddings = [entry for entry in embeddings if entry["name"].endswith(EMBEDDINGS)] or embeddings
    if len(embeddings) != 1 or len(heads) > 1:
        return
    if heads:
        heads[0]["tied_to"] = embeddings[0]["name"]
    elif any(value is True for key, value in leaves(config) if key.split(".")[-1] == "tie_word_embeddings"):
        home = next(module for module in modules if embeddings[0] in module["before"] + module["after"])
        # The head is next to the model that has the embedding, which can be part of another model.
        home_of, model, _ = f".{embeddings[0]['name']}".rpartition(".model.")
        name = f"{home_of}.lm_head.weight".lstrip(".") if model else "lm_head.weight"
        tied = {"name": name, "tied_to": embeddings[0]["name"], "vocabulary_axis": 0}
        home["after"].append(tied)
