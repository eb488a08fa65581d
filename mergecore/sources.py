"""From a model reference to its config and the headers of its weight files; weights stay unread."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api import Reader, TensorInfo
from mergecore.errors import ModelError
from mergecore.plugins import listed
from mergecore.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """An opened model folder.

    Attributes:
        reference: the model as the recipe writes it.
        folder: where its files are.
        config: its config.json.
        tensors: every tensor of its weight files, from their headers.
        readers: what reads each tensor.
    """

    reference: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    readers: Mapping[str, Reader]

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` with a tensor's elements from `start` on; see `mergecore.api.Reader.read`."""
        self.readers[name].read(name, start, out)

    def close(self) -> None:
        """Let go of the files."""
        for reader in set(self.readers.values()):
            reader.close()


def open_model(reference: str, registry: Registry) -> Checkpoint:
    """Open a model folder.

    Raises:
        ModelError: no such folder, or config.json or the weight files cannot be used.
    """
    folder = Path(reference).expanduser()
    if not os.path.isdir(folder):  # False, unlike Path.is_dir, for what can be no name at all
        raise ModelError(f"{reference}: there is no such folder; give the path of a model folder with its config.json")
    config = _read_config(folder)
    files, index = _weight_files(folder)
    suffixes = dict.fromkeys(path.suffix for path in files)
    formats = {suffix: registry.provide("readers", suffix.removeprefix(".")) for suffix in suffixes}
    readers: list[Reader] = []
    try:
        for path in files:
            readers.append(formats[path.suffix](path))
        owners = _owners(files, readers)
        tensors = {name: reader.tensors[name] for name, reader in owners.items()}
        if index is not None:
            _check_index(index, tensors)
    except BaseException:
        for reader in readers:
            reader.close()
        raise
    return Checkpoint(reference, folder, config, tensors, owners)


def _owners(files: list[Path], readers: list[Reader]) -> dict[str, Reader]:
    """The reader of each tensor, in the files' order."""
    owners: dict[str, Reader] = {}
    for path, reader in zip(files, readers):
        for name in reader.tensors:
            if name in owners:
                raise ModelError(f"{path}: {name!r} is in another file of the folder too; remove the stale file")
            owners[name] = reader
    return owners


def _read_config(folder: Path) -> Mapping[str, Any]:
    config = _read_json(folder / "config.json", "a model folder has its description there")
    if "quantization_config" in config:
        raise ModelError(f"{folder / 'config.json'}: the weights are quantised; use the model's unquantised checkpoint")
    return config


def _read_json(path: Path, missing: str) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file; {missing}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must hold a JSON object")
    return value


STEMS = ("model", "pytorch_model")
"""What loaders call a checkpoint's single file or index, before its suffix."""

NOT_WEIGHTS = ("adapter_", "training_args", "optimizer", "scheduler", "rng_state")
"""How files begin that lie beside weights and have their suffix."""


def _weight_files(folder: Path) -> tuple[list[Path], Path | None]:
    """The files that hold the weights, and their index: the first format that is there, safetensors before others."""
    for suffix in dict.fromkeys(("safetensors", *(plugin.name for plugin in listed("readers")))):
        single = next((path for stem in STEMS if (path := folder / f"{stem}.{suffix}").exists()), None)
        index = next((path for stem in STEMS if (path := folder / f"{stem}.{suffix}.index.json").exists()), None)
        if index:
            shards = _shards(index)
            if single and shards != [single]:
                both = f"{single.name} and {index.name}, which different tools prefer"
                raise ModelError(f"{folder}: has both {both}; remove the stale one")
            return shards, index
        others = sorted(path for path in folder.glob(f"*.{suffix}") if not path.name.startswith(NOT_WEIGHTS))
        if single or len(others) == 1:
            return [single or others[0]], None
        if others:
            raise ModelError(f"{folder}: has {len(others)} .{suffix} files and no index; fetch its .index.json too")
    raise ModelError(f"{folder}: {_why_no_weights(folder)}")


def _why_no_weights(folder: Path) -> str:
    if (folder / "adapter_config.json").exists():
        return "this is an adapter, not a model; merge it into its base model first"
    found = sorted({path.name for suffix in ("bin", "pt", "pth", "gguf") for path in folder.glob(f"*.{suffix}")})
    if not found:
        return "has no weight files, such as model.safetensors"
    return f"has only {', '.join(found[:3])}, which no installed reader reads; for .bin: pip install mergecore-pytorch"


def _shards(index: Path) -> list[Path]:
    names = _read_json(index, "").get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{index}: its 'weight_map' must map tensor names to file names")
    files = [index.parent / name for name in dict.fromkeys(names.values())]
    for path in files:
        if path.parent != index.parent or ".." in path.parts[-1:]:
            raise ModelError(f"{index}: names {path.name!r} outside its own folder")
        if not path.exists():
            raise ModelError(f"{path}: is named by {index.name} but is not there; fetch it again")
    return files


def _check_index(index: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """An index that disagrees with the headers means files from two checkpoints in one folder."""
    named = set(_read_json(index, "")["weight_map"])
    if named != set(tensors):
        example = sorted(named ^ set(tensors))[0]
        raise ModelError(f"{index}: does not agree with its files on {example!r}; fetch the checkpoint again")
