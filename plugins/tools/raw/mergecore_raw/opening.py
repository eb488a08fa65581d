"""Open weights without a config.json: a single file, or the components of a diffusers folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergecore.api import ModelError, Reader, read_json
from mergecore.tooling import Checkpoint, Labeled, Registry, check_link, split_adapters, stamp_file

CLASS = "StateDict"
"""Placeholder model class for arbitrary names."""

READERS = {"safetensors": "safetensors", "bin": "bin", "pt": "bin", "pth": "bin", "ckpt": "bin"}
"""Reader by suffix."""

INDEX = "model_index.json"
"""File in every diffusers folder that lists the library and class of each component."""

LIMIT = 10**8
"""Maximum size in bytes of a JSON file in a diffusers folder."""

WEIGHTS = re.compile(
    r"(?P<stem>\w+?)(\.(?P<variant>\w+))?(-\d+-of-\d+)?(\.(?P<old_variant>\w+))?\.(?P<suffix>safetensors|bin)"
)
"""A component's weight file: ``diffusion_pytorch_model.fp16-00001-of-00002.safetensors``."""


def is_file(reference: str) -> bool:
    """Return whether a reference is a weight file."""
    return (
        Path(reference).suffix.removeprefix(".").lower() in READERS and not Path(os.path.expanduser(reference)).is_dir()
    )


def is_diffusers(reference: str) -> bool:
    """Return whether a reference is a diffusers folder."""
    return (Path(os.path.expanduser(reference)) / INDEX).is_file()


def open_state(reference: str, registry: Registry) -> Checkpoint:
    """Open a weight file or a diffusers folder. With ``+LORA``, the changes of a LoRA file are added.

    In a folder, tensor names start with the path of their weight file, without suffix, shard, and variant:
    ``unet/diffusion_pytorch_model/conv_in.weight``.

    Raises:
        ModelError: The reference is neither, or cannot be read.
    """
    base, loras = split_adapters(reference) if "+" in reference and not os.path.exists(reference) else (reference, [])
    if loras:
        return _with_loras(reference, base, loras, registry)
    path = Path(os.path.expanduser(reference))
    if is_diffusers(reference):
        return _opened(reference, path, _component_files(path), registry)
    if is_file(reference):
        return _opened(reference, path, {"": [path]}, registry)
    if (path / "config.json").is_file():
        raise ModelError(f"{reference}: is a model folder with a config.json; merge it with mergecore run")
    if path.is_dir():
        raise ModelError(f"{reference}: is not a diffusers folder ({INDEX} is missing); use a weight file instead")
    suffixes = ", ".join(f".{suffix}" for suffix in READERS)
    raise ModelError(f"{reference}: is neither a weight file ({suffixes}) nor a diffusers folder")


def _with_loras(reference: str, base: str, loras: Sequence[str], registry: Registry) -> Checkpoint:
    """Open ``CHECKPOINT+LORA``: a checkpoint with the changes of LoRA files."""
    from mergecore_raw.lora_files import with_lora

    checkpoint = open_state(base, registry)
    for lora in loras:
        try:
            added = open_state(lora, registry)
        except BaseException:
            checkpoint.close()
            raise
        try:
            checkpoint = with_lora(checkpoint, added)
        except BaseException:
            added.close()
            checkpoint.close()
            raise
    return replace(checkpoint, reference=reference)


def _opened(reference: str, path: Path, groups: Mapping[str, list[Path]], registry: Registry) -> Checkpoint:
    """Open files as one checkpoint, prefixing tensor names with the label of their group."""
    readers: dict[str, Reader] = {}
    files: list[Reader] = []
    stamps = {}
    try:
        for label, paths in groups.items():
            for file in paths:
                reader = _reader(file, registry)
                files.append(reader)
                stamps[file] = stamp_file(file)
                own = Labeled(reader, label)
                if twice := readers.keys() & own.tensors.keys():
                    raise ModelError(f"{file}: {min(twice)!r} is also in another file; remove the stale file")
                readers.update(dict.fromkeys(own.tensors, own))
    except BaseException:
        for item in files:
            item.close()
        raise
    tensors = {name: reader.tensors[name] for name, reader in readers.items()}
    if not tensors:
        raise ModelError(f"{reference}: contains no weights")
    return Checkpoint(reference, path, {"architectures": [CLASS]}, tensors, readers, files, stamps)


def _reader(path: Path, registry: Registry) -> Reader:
    make: Any = registry.provide("readers", READERS[path.suffix.removeprefix(".").lower()])
    reader: Reader = make(path)
    return reader


def read_index(folder: Path) -> dict[str, Any]:
    """Return the components of a diffusers folder: the entries of model_index.json that are folders.

    Raises:
        ModelError: The file is invalid.
    """
    path = folder / INDEX
    check_link(folder, path)
    value = read_json(path, LIMIT)
    names = [name for name, entry in value.items() if isinstance(entry, list) and not name.startswith("_")]
    if any("/" in name or "\\" in name or name in ("", ".", "..") for name in names):
        raise ModelError(f"{path}: lists a component outside its own folder; download the model again")
    return {name: value[name] for name in names if (folder / name).is_dir()}


def _component_files(folder: Path) -> dict[str, list[Path]]:
    """Return the weight files of every component, by the label of their tensors."""
    groups: dict[str, list[Path]] = {}
    for name in read_index(folder):
        chosen = _chosen(folder / name)
        for path in chosen:
            check_link(folder, path)
            found = WEIGHTS.fullmatch(path.name)
            assert found is not None
            groups.setdefault(f"{name}/{found['stem']}/", []).append(path)
        if chosen:
            _check_whole(folder / name, {path.name for path in chosen})
    if not groups:
        raise ModelError(f"{folder}: has no component with weight files; download the complete model")
    return groups


def _chosen(component: Path) -> list[Path]:
    """Return a component's weight files without a variant, preferring safetensors, or else its only variant."""
    found = [match for path in sorted(component.iterdir()) if (match := WEIGHTS.fullmatch(path.name))]
    for suffix in ("safetensors", "bin"):
        variants: dict[str, list[Path]] = {}
        for match in found:
            if match["suffix"] == suffix:
                variants.setdefault(match["variant"] or match["old_variant"] or "", []).append(component / match[0])
        if len(variants) > 1 and "" not in variants:
            raise ModelError(f"{component}: has weights in several variants ({', '.join(variants)}); keep only one")
        if variants:
            return variants.get("") or next(iter(variants.values()))
    return []


def _check_whole(component: Path, names: Iterable[str]) -> None:
    """Check that every file listed in an index of the chosen files exists."""
    names = set(names)
    for path in component.glob("*.index*.json"):
        places = read_json(path, LIMIT).get("weight_map")
        wanted = set(map(str, places.values())) if isinstance(places, dict) else set()
        if wanted & names and wanted - names:
            raise ModelError(
                f"{component / min(wanted - names)}: is listed in {path.name} but missing; download it again"
            )
