"""The modules of a sentence-transformers model, such as its pooling and the trained layers after the transformer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api import BytesReader, Reader, TensorInfo, read_json, read_text
from mergecore.api.memory import read_into
from mergecore.errors import ModelError

LIST = "modules.json"
"""The file that lists the modules of a model, in the order in which they run."""

LIMIT = 10**6
"""Maximum size of that file and of a module's config, in bytes. They list a few names and numbers."""

STATIC = "StaticEmbedding"
"""The module that is a model on its own, an embedding without a transformer."""

MODULE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of a module's weight file."""

NOT_MERGED = ("Router", "Asym", "WordEmbeddings", "BoW")
"""First modules that contain other modules, or whose vocabulary is in files of their own."""

NEUTRAL = ("module_input_name", "module_output_name")
"""Keys that only newer versions write."""


@dataclass(frozen=True)
class SentenceModule:
    """A module: its folder in the model's, the name of its class, and its settings."""

    path: str
    kind: str
    settings: Mapping[str, Any]


def first_module(folder: Path) -> SentenceModule | None:
    """Return the module that takes the text, or None if the folder lists no modules.

    Raises:
        ModelError: if the list is invalid, or this module cannot be merged.
    """
    modules = _listed(folder)
    if not modules:
        return None
    path, kind = modules[0]
    if kind in NOT_MERGED:
        raise ModelError(f"{folder}: is a sentence-transformers model with {kind} modules, which cannot be merged")
    return SentenceModule(path, kind, {})


def read_modules(folder: Path) -> tuple[SentenceModule, ...]:
    """Return the modules of a model that run after its first one. There are none without modules.json.

    Args:
        folder: folder of the first module, which is the model's folder or, as in older versions, a folder in it.

    Raises:
        ModelError: if a file with a list or settings is invalid.
    """
    for root in (folder, folder.parent):
        found = _listed(root)
        if found and root / found[0][0] == folder:
            return tuple(SentenceModule(path, kind, _settings(root / path)) for path, kind in found[1:])
    return ()


def _listed(folder: Path) -> list[tuple[str, str]]:
    """Return the path and the class of each module, or an empty list if the folder has no list."""
    file = folder / LIST
    if not file.is_file():
        return []
    try:
        items = json.loads(read_text(file, LIMIT))
        found = [(str(item["path"]), str(item["type"]).rpartition(".")[2]) for item in items]
    except (ValueError, TypeError, KeyError, RecursionError):
        found = []
    # Only plain names, so that nothing outside the folder is read or written.
    if not found or not all(path.replace("_", "").isalnum() or path == "" for path, _ in found):
        raise ModelError(f"{file}: must list the path and the type of each module; download it again")
    return found


def _settings(folder: Path) -> Mapping[str, Any]:
    """Return a module's settings. Those of a pooling are its mode alone, in the spelling of newer versions."""
    file = folder / "config.json"
    found = read_json(file, LIMIT) if file.is_file() else {}
    modes = found.get("pooling_mode") or [OLD_MODES[key] for key in OLD_MODES if found.get(key) is True]
    if modes:
        return {"pooling_mode": modes if isinstance(modes, str) else "+".join(sorted(map(str, modes)))}
    return {key: value for key, value in found.items() if key not in NEUTRAL}


OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Modes of pooling by the keys of older versions."""


def check_modules(
    reference: str, modules: Sequence[SentenceModule], like: str, wanted: Sequence[SentenceModule]
) -> None:
    """Check that two sentence-transformers models have the same modules with the same settings.

    Raises:
        ModelError: if they do not. The message names the first difference.
    """
    lists = [[(item.path, item.kind) for item in each] for each in (modules, wanted)]
    if lists[0] != lists[1]:
        own, other = (", ".join(f"{path} ({kind})" for path, kind in each) or "none" for each in lists)
        raise ModelError(f"{reference}: its modules are {own}, but those of {like} are {other}")
    for module, theirs in zip(modules, wanted):
        for key in sorted(module.settings.keys() & theirs.settings.keys()):
            values = module.settings[key], theirs.settings[key]
            if values[0] != values[1]:
                raise ModelError(
                    f"{reference}: {module.path} has {key} {values[0]}, but that of {like} has {values[1]}, so their"
                    f" embeddings do not match; if both were trained alike, correct {module.path}/config.json"
                )


class Labeled(BytesReader):
    """A `mergecore.api.Reader` that adds a label before each name."""

    def __init__(self, reader: Reader, label: str) -> None:
        self._reader, self._label = reader, label
        self.tensors: Mapping[str, TensorInfo] = {label + name: info for name, info in reader.tensors.items()}

    def read_bytes(self, name: str, start: int, out: memoryview) -> None:
        """See `mergecore.api.BytesReader.read_bytes`."""
        read_into(self._reader, name.removeprefix(self._label), start, out)

    def parts(self, name: str) -> list[tuple[Reader, str, int]]:
        """Return the tensor that a tensor is read from. See `mergecore.api.DerivedReader.parts`."""
        return [(self._reader, name.removeprefix(self._label), self.tensors[name].elements)]

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
