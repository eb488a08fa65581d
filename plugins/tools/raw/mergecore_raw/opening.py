"""Opens weights that no config.json describes: a single file, or the components of a diffusers folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api import ModelError, Reader, lies_within, read_text
from mergecore.discovery.registry import Registry
from mergecore.models.checkpoint import Checkpoint
from mergecore.models.stamps import stamp

CLASS = "StateDict"
"""The model class that stands for any names."""

READERS = {"safetensors": "safetensors", "bin": "bin", "pt": "bin", "pth": "bin", "ckpt": "bin"}
"""The reader of each suffix."""

INDEX = "model_index.json"
"""What every diffusers folder has: its components, each with library and class."""

LIMIT = 10**8
"""Bytes that a JSON file of a diffusers folder may have."""

WEIGHTS = re.compile(
    r"(?P<stem>\w+?)(\.(?P<variant>\w+))?(-\d+-of-\d+)?(\.(?P<old_variant>\w+))?\.(?P<suffix>safetensors|bin)"
)
"""A component's weight file: ``diffusion_pytorch_model.fp16-00001-of-00002.safetensors``."""


def is_file(reference: str) -> bool:
    """Whether a reference names a weight file."""
    return Path(reference).suffix.removeprefix(".").lower() in READERS and not Path(reference).expanduser().is_dir()


def is_diffusers(reference: str) -> bool:
    """Whether a reference names a diffusers folder."""
    return (Path(reference).expanduser() / INDEX).is_file()


def open_state(reference: str, registry: Registry) -> Checkpoint:
    """Open a weight file or a diffusers folder.

    In a folder, tensors are called after the weight file that holds them, without suffix, shard and variant:
    ``unet/diffusion_pytorch_model/conv_in.weight``.

    Raises:
        ModelError: it is neither, or cannot be read.
    """
    path = Path(reference).expanduser()
    if is_diffusers(reference):
        return _opened(reference, path, _component_files(path), registry)
    if is_file(reference):
        return _opened(reference, path, {"": [path]}, registry)
    if (path / "config.json").is_file():
        raise ModelError(f"{reference}: is a model folder with its config.json; merge it with mergecore run")
    if path.is_dir():
        raise ModelError(f"{reference}: is no diffusers folder ({INDEX} is missing); name a weight file in it")
    suffixes = ", ".join(f".{suffix}" for suffix in READERS)
    raise ModelError(f"{reference}: is no weight file ({suffixes}) and no diffusers folder")


def _opened(reference: str, path: Path, groups: Mapping[str, list[Path]], registry: Registry) -> Checkpoint:
    """A checkpoint of files, whose names get the label of their group before them."""
    readers: dict[str, Reader] = {}
    files: list[Reader] = []
    stamps = {}
    try:
        for label, paths in groups.items():
            for file in paths:
                reader = _reader(file, registry)
                files.append(reader)
                stamps[file] = stamp(file)
                own = Labelled(reader, label)
                if twice := readers.keys() & own.tensors.keys():
                    raise ModelError(
                        f"{file}: {min(twice)!r} is in another file of the folder too; remove the stale file"
                    )
                readers.update(dict.fromkeys(own.tensors, own))
    except BaseException:
        for item in files:
            item.close()
        raise
    tensors = {name: reader.tensors[name] for name, reader in readers.items()}
    if not tensors:
        raise ModelError(f"{reference}: holds no weights")
    return Checkpoint(reference, path, {"architectures": [CLASS]}, tensors, readers, files, stamps)


def _reader(path: Path, registry: Registry) -> Reader:
    make: Any = registry.provide("readers", READERS[path.suffix.removeprefix(".").lower()])
    reader: Reader = make(path)
    return reader


@dataclass(frozen=True)
class Labelled:
    """A reader whose names have a label before them; a `mergecore.api.Reader`."""

    reader: Reader
    label: str

    @property
    def tensors(self) -> Mapping[str, Any]:
        """As `mergecore.api.Reader.tensors`."""
        return {self.label + name: info for name, info in self.reader.tensors.items()}

    def read(self, name: str, start: int, out: Any) -> None:
        """See `mergecore.api.Reader.read`."""
        self.reader.read(name.removeprefix(self.label), start, out)

    def close(self) -> None:
        """Let go of the file."""
        self.reader.close()


def read_index(folder: Path) -> dict[str, Any]:
    """A diffusers folder's components: those of its model_index.json that are folders.

    Raises:
        ModelError: the file is not what it should be.
    """
    path = folder / INDEX
    _check_link(folder, path)
    value = _json(path)
    names = [name for name, entry in value.items() if isinstance(entry, list) and not name.startswith("_")]
    if any("/" in name or "\\" in name or name in ("", ".", "..") for name in names):
        raise ModelError(f"{path}: names a component outside its own folder; fetch the model again")
    return {name: value[name] for name in names if (folder / name).is_dir()}


def _component_files(folder: Path) -> dict[str, list[Path]]:
    """The weight files of every component, by the label of their tensors."""
    groups: dict[str, list[Path]] = {}
    for name in read_index(folder):
        chosen = _chosen(folder / name)
        for path in chosen:
            _check_link(folder, path)
            found = WEIGHTS.fullmatch(path.name)
            assert found is not None
            groups.setdefault(f"{name}/{found['stem']}/", []).append(path)
        if chosen:
            _check_whole(folder / name, {path.name for path in chosen})
    if not groups:
        raise ModelError(f"{folder}: has no component with weight files; fetch the whole model")
    return groups


def _chosen(component: Path) -> list[Path]:
    """Of a component's weight files those without a variant, safetensors first; else those of its only variant."""
    found = [match for path in sorted(component.iterdir()) if (match := WEIGHTS.fullmatch(path.name))]
    for suffix in ("safetensors", "bin"):
        variants: dict[str, list[Path]] = {}
        for match in found:
            if match["suffix"] == suffix:
                variants.setdefault(match["variant"] or match["old_variant"] or "", []).append(component / match[0])
        if len(variants) > 1 and "" not in variants:
            raise ModelError(f"{component}: has weights in the variants {', '.join(variants)}; keep one of them")
        if variants:
            return variants.get("") or next(iter(variants.values()))
    return []


def _check_whole(component: Path, names: Iterable[str]) -> None:
    """Every file that an index of the chosen ones names is there."""
    names = set(names)
    for path in component.glob("*.index*.json"):
        places = _json(path).get("weight_map")
        wanted = set(map(str, places.values())) if isinstance(places, dict) else set()
        if wanted & names and wanted - names:
            raise ModelError(
                f"{component / min(wanted - names)}: is named by {path.name} but is not there; fetch it again"
            )


def _check_link(folder: Path, path: Path) -> None:
    if not lies_within(folder, path):
        raise ModelError(f"{path}: is a link that leads out of the model's folder; put the file itself there")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path, LIMIT))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must hold a JSON object")
    return value
