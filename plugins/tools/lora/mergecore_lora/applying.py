"""Map each key of an adapter to a change of a model's tensor. A key without a matching tensor is an error."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mergecore.api import Adapter, AdapterRequest, Change, ModelError, Reader, TensorInfo
from mergecore_lora.changes import Factors, Instead, LowRank, Plus, Rows, Same, Stored, Then
from mergecore_lora.closed_forms import closed_form
from mergecore_lora.keys import PART, check_one_adapter, layer_of, plain_key
from mergecore_lora.settings import WEIGHTS, Settings, read_settings, stated

HEADS = ("score", "classifier", "qa_outputs", "classification_head", "pooler")
"""Modules that only classes for other tasks than writing text have."""

TRAINED = ".modules_to_save."
"""Part of the name of a module that is trained in full."""

SHARED = ("base_model.vera_A", "base_model.vera_B")
TOKENS = ".token_adapter.trainable_tokens_delta"
WRAPPED = re.compile(r"\.(base_layer|modules_to_save(\.default)?|original_module)(?=\.)")
"""What PEFT inserts into the names of wrapped tensors."""


def adapter(request: AdapterRequest) -> Adapter:
    """Return the changes of a PEFT adapter.

    Raises:
        ModelError: The adapter has an unsupported type, a file is unusable, or a key or shape does not fit the model.
    """
    settings = read_settings(request.folder)
    path = next((p for name in WEIGHTS if os.path.lexists(p := request.folder / name)), None)
    if path is None:
        raise ModelError(f"{request.folder}: has no {WEIGHTS[0]}; download the complete adapter")
    found = Keys(request, settings, path, request.open(path))
    changes = found.changes()
    return Adapter(settings.summary, changes, [settings.path, path], found.rows)


@dataclass
class Keys:
    """The keys of an adapter's file, sorted by purpose."""

    request: AdapterRequest
    settings: Settings
    path: Path
    reader: Reader
    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    """Key by part, for each module."""
    rows: dict[str, int] = field(default_factory=dict)
    """Number of rows of each tensor whose vocabulary was resized."""
    shared: dict[str, Stored] = field(default_factory=dict)
    """The random matrices that all modules of VeRA share."""
    _changes: dict[str, Change] = field(default_factory=dict)
    _origin: dict[str, str] = field(default_factory=dict)
    """The key that each change came from."""

    def changes(self) -> dict[str, Change]:
        """Return every change by the name of the model's tensor."""
        trained = {WRAPPED.sub("", key) for key in self.reader.tensors if TRAINED in key}
        check_one_adapter(self.reader.tensors, self.path)
        for key, info in self.reader.tensors.items():
            name = plain_key(key)
            if not info.elements:
                raise ModelError(
                    f"{self.path}: {key!r} is empty; DeepSpeed saved it without gathering its parts, so save the"
                    " adapter again from the gathered weights"
                )
            if TRAINED not in key and WRAPPED.sub("", key) in trained:
                continue  # PEFT also saves a resized embedding as it was before training.
            if match := PART.fullmatch(name):
                part = match[2] + (".bias" if match[4] == ".bias" else "")
                self.modules.setdefault(match[1], {})[part] = key
            elif key in SHARED:
                self.shared[key.removeprefix("base_model.")] = Stored(self.reader, key)
            elif name.endswith(TOKENS):
                self._add_rows(key, name.removesuffix(TOKENS))
            else:
                self._add_instead(key, WRAPPED.sub("", name))
        if self.settings.kind == "LORA":
            self._add_all_low_rank()
        else:
            self._add_closed_forms()
        self._keep_heads()
        return self._changes

    def _add_all_low_rank(self) -> None:
        targets = {module: self._target(module, parts) for module, parts in self.modules.items()}
        # Square experts have the orientation of the others.
        shown = any(self._shape_says_transposed(name, a, b) for name, a, b in targets.values() if self._axes(name) == 3)
        for module, parts in self.modules.items():
            name, a, b = targets[module]
            transposed = shown if self._axes(name) == 3 else layer_of(name) in self._transposed_layers
            self._add_low_rank(module, parts, name, a, b, transposed)

    def _add_closed_forms(self) -> None:
        for module, keys in self.modules.items():
            key = next(iter(keys.values()))
            name = self._find(f"{WRAPPED.sub('', f'{module}.')}weight")
            if name is None:
                raise self._no_place(key)
            parts = {part: Stored(self.reader, key) for part, key in keys.items()}
            shape, transposed = self.request.tensors[name].shape, layer_of(name) in self._transposed_layers
            made = closed_form(self.settings, module, parts, self.shared, shape, transposed)
            if made is None:
                raise self._misfit(key, name)
            for part, change in made.items():
                found = name if part == "weight" else self._find(f"{module}.{part}")
                if found is not None:
                    self._add(key, found, change)

    def _keep_heads(self) -> None:
        """Keep heads that are tied to a changed embedding, as in training. Trained rows are shared with the head."""
        for head, embedding in self.request.tied.items():
            change = self._changes.get(embedding)
            shared = self.settings.tied or type(change) is Rows or embedding in self.rows
            if change is not None and head not in self._changes and not shared:
                self._changes[head] = Same()

    def _target(self, module: str, parts: Mapping[str, str]) -> tuple[str, Stored, Stored]:
        """Return the name of the tensor that a module's factors change, and the two factors."""
        kind = "lora_embedding_" if any(part.startswith("lora_embedding") for part in parts) else "lora_"
        pair = {letter: parts.get(kind + letter) for letter in "AB"}
        for letter, other in (("A", "B"), ("B", "A")):
            if pair[letter] is None:
                there = pair[other] or next(iter(parts.values()))
                raise ModelError(f"{self.path}: has {there!r} without its {kind}{letter}; save the adapter again")
        a, b = (Stored(self.reader, str(pair[letter])) for letter in "AB")
        plain = WRAPPED.sub("", f"{module}.").removesuffix(".")
        name = self._find(f"{plain}.weight") if plain == module else None
        name = name or self._parameter(plain, module.count(".base_layer"), a, b)
        if name is None:
            raise self._no_place(a.name)
        return name, a, b

    def _find(self, name: str) -> str | None:
        """Return the model's name of a tensor, which can be different in the adapter."""
        return next((item for item in (name, *self._spelt(name)) if item in self.request.tensors), None)

    def _spelt(self, name: str) -> list[str]:
        """Return alternative spellings of a name."""
        others = self.request.others.items()
        return [here + name.removeprefix(there) for there, here in others if name.startswith(there)]

    def _parameter(self, module: str, depth: int, a: Stored, b: Stored) -> str | None:
        """Return the parameter that is a direct target. If there are several, PEFT wraps the last one outermost."""
        ends = self.settings.parameters
        found = [
            name
            for name in self.request.tensors
            if name.rpartition(".")[0] in {module, *self._spelt(module)}
            and any(name == end or name.endswith(f".{end}") for end in ends)
        ]
        sizes = {b.shape[0], a.shape[-1]}
        fitting = [name for name in found if {*self.request.tensors[name].shape[-2:]} == sizes]
        if len(fitting) == 1:
            return fitting[0]
        return found[-1 - depth] if depth < len(found) else None

    def _axes(self, name: str) -> int:
        return len(self.request.tensors[name].shape)

    @cached_property
    def _transposed_layers(self) -> set[str]:
        """The layers whose linear layers are stored as (in, out), as the base's shapes show.

        PEFT looks at the type of the module and ignores fan_in_fan_out. Modules of the type that is stored so always
        have a bias, whose size is that of the output.
        """
        found = set()
        for name, info in self.request.tensors.items():
            bias = self.request.tensors.get(f"{name.removesuffix('.weight')}.bias")
            if bias and len(info.shape) == 2 and bias.shape == info.shape[1:] and info.shape[0] != info.shape[1]:
                found.add(layer_of(name))
        return found

    def _shape_says_transposed(self, name: str, a: Stored, b: Stored) -> bool:
        """Return whether a non-square weight is stored as (in, out). Embedding factors follow other rules."""
        shape = self.request.tensors[name].shape[-2:]
        sizes = (b.shape[0], math.prod(a.shape[1:]))
        return "lora_embedding" not in a.name and shape == sizes[::-1] and shape != sizes

    def _add_low_rank(
        self, module: str, parts: Mapping[str, str], name: str, a: Stored, b: Stored, transposed: bool
    ) -> None:
        info = self.request.tensors[name]
        if name in self.rows:
            info = replace(info, shape=(self.rows[name], *info.shape[1:]))
        factors = self._factors(module, name, info, a, b, transposed)
        magnitude = parts.get("lora_magnitude_vector")
        if (magnitude is not None) is not self.settings.magnitudes:
            lacks = "has" if magnitude else "is missing"
            raise ModelError(f"{self.path}: {lacks} the magnitude of {module!r}, but {self.settings.path.name} sets"
                             f" use_dora: {str(self.settings.magnitudes).lower()}; save the adapter again")  # fmt: skip
        if magnitude and (factors.matrices > 1 or self.reader.tensors[magnitude].elements != b.shape[0]):
            raise self._misfit(magnitude, name)
        self._add(a.name, name, LowRank(factors, Stored(self.reader, magnitude) if magnitude else None))
        if bias := parts.get("lora_B.bias"):
            self._add_bias(bias, f"{module}.bias", factors.scale)

    def _factors(self, module: str, name: str, info: TensorInfo, a: Stored, b: Stored, transposed: bool) -> Factors:
        if len(a.shape) < 2 or len(b.shape) < 2 or len(info.shape) < 2 or not a.shape[0]:
            raise self._misfit(a.name, name)
        experts = len(info.shape) == 3 and len(a.shape) == 2
        matrices = info.shape[0] if experts else 1
        rows, columns = info.shape[1:] if experts else (info.shape[0], math.prod(info.shape[1:]))
        rank, rest = divmod(a.shape[0], matrices)
        given = (b.shape[0], math.prod(a.shape[1:]))
        embedding = "lora_embedding" in a.name
        turned = embedding or (given != (rows, columns)) or (transposed and rows == columns)
        if rest or given != ((columns, rows) if turned else (rows, columns)) or math.prod(b.shape[1:]) != a.shape[0]:
            raise self._misfit(a.name, name)
        # PEFT matches patterns against the parameter's name if a parameter is the target.
        ends = self.settings.parameters
        label = name if any(f".{name}".endswith(f".{end}") for end in ends) else WRAPPED.sub("", f"{module}.")[:-1]
        expected = self.settings.rank_of(label)
        if rank != expected:
            raise ModelError(
                f"{self.path}: {a.name!r} has rank {rank}, but {self.settings.path.name} specifies {expected};"
                " save the adapter again"
            )
        return Factors(a, b, matrices, rows, columns, turned, self.settings.scale(label, rank))

    def _add_bias(self, key: str, name: str, scale: float) -> None:
        found = self._find(name)
        if found is None:
            raise ModelError(
                f"{self.path}: {key!r} adds a bias (lora_bias), but {self.request.model.reference} has no {name!r};"
                " train without lora_bias, or use the adapter with PEFT"
            )
        if self.reader.tensors[key].shape != self.request.tensors[found].shape:
            raise self._misfit(key, found)
        self._add(key, found, Plus(Stored(self.reader, key), scale))

    def _add_instead(self, key: str, name: str) -> None:
        found = self._find(name)
        if found is None:
            raise self._no_place(key)
        ours, theirs = self.request.tensors[found].shape, self.reader.tensors[key].shape
        if ours != theirs:
            if ours[1:] != theirs[1:] or len(ours) != 2:
                raise self._misfit(key, found)
            self.rows[found] = theirs[0]  # the vocabulary was resized before training
        self._add(key, found, Instead(Stored(self.reader, key)))

    def _add_rows(self, key: str, module: str) -> None:
        found = self._find(f"{module}.weight")
        if found is None:
            raise self._no_place(key)
        numbers = self.settings.tokens or []
        if isinstance(numbers, Mapping):
            ends = (end for end in numbers if module == end or module.endswith(f".{end}"))
            numbers = numbers.get(next(ends, ""), [])
        info = self.request.tensors[found]
        if self.reader.tensors[key].shape != (len(numbers), *info.shape[1:]):
            raise self._misfit(key, found)
        count = max([info.shape[0] - 1, *numbers]) + 1
        if len(info.shape) != 2 or not {*range(info.shape[0], count)} <= {*numbers}:
            raise ModelError(f"{self.settings.path}: trainable_token_indices lists rows that {found!r} does not have")
        if count > info.shape[0]:
            self.rows[found] = count
        self._add(key, found, Rows(Stored(self.reader, key), tuple(numbers)))

    def _add(self, key: str, name: str, change: Change) -> None:
        before = self._changes.get(name)
        if isinstance(before, Instead) and not isinstance(change, Instead):  # PEFT stores a resized embedding's base
            change = Then(before, change)
        elif before is not None:
            raise ModelError(f"{self.path}: {key!r} and {self._origin[name]!r} both change {name!r}; remove one")
        self._changes[name], self._origin[name] = change, key

    def _no_place(self, key: str) -> ModelError:
        task, module = stated(self.request.folder, "task_type"), plain_key(key).partition(".")[0]
        if module in HEADS and isinstance(task, str):
            kind = " ".join(map(str, self.request.model.config.get("architectures") or ["a model without a class"]))
            return ModelError(
                f"{self.path}: has the head {module!r} for the task {task}, but {self.request.model.reference} is a"
                f" {kind} without such a head; use a base of the class that the adapter was trained on"
            )
        return ModelError(
            f"{self.path}: {key!r} matches no weight of {self.request.model.reference}; was the adapter trained for"
            " another model?"
        )

    def _misfit(self, key: str, name: str) -> ModelError:
        theirs, ours = list(self.reader.tensors[key].shape), list(self.request.tensors[name].shape)
        return ModelError(
            f"{self.path}: {key!r} of shape {theirs} does not fit {name!r} of shape {ours} in"
            f" {self.request.model.reference}; was the adapter trained for another model?"
        )
