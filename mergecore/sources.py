"""From a model reference to its config and the headers of its weight files; weights stay unread."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore import quantised
from mergecore.api import ModelInfo, Reader, TensorInfo, lies_within, read_card, read_text
from mergecore.errors import ModelError
from mergecore.plugins import listed
from mergecore.registry import Registry
from mergecore.stamps import Stamp, stamp

if TYPE_CHECKING:
    from torch import Tensor


CONFIG_LIMIT, INDEX_LIMIT = 10_000_000, 100_000_000
"""Bytes that config.json and an index may have; the largest known ones have a tenth of that."""

DEPTH_LIMIT = 50
"""How deeply their values may be nested: far from where recursion over them fails."""


@dataclass(frozen=True)
class Index:
    """An index file and the name of the file that it gives for each tensor."""

    path: Path
    places: Mapping[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """An opened model folder.

    Attributes:
        reference: the model as the recipe writes it.
        folder: where its files are.
        config: its config.json, without what it says about quantisation.
        tensors: every tensor of its weight files, from their headers; fp8 ones as they are read, dequantised.
        readers: what reads each tensor.
        files: the readers of its files.
        stamps: its weight files, as they were before they were opened.
        made_of: a digest of what decides the tensors that readers compute and no file holds.
        card: what its README.md says of licence and language.
        revision: the commit that a model from the Hub is of.
    """

    reference: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    readers: Mapping[str, Reader]
    files: Sequence[Reader]
    stamps: Mapping[Path, Stamp]
    made_of: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None

    @property
    def info(self) -> ModelInfo:
        """What plugins are told of it."""
        return ModelInfo(self.reference, self.folder, self.config, self.card, self.revision)

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` with a tensor's elements from `start` on; see `mergecore.api.Reader.read`."""
        self.readers[name].read(name, start, out)

    def close(self) -> None:
        """Let go of the files."""
        for file in self.files:
            file.close()


def open_model(reference: str, registry: Registry) -> Checkpoint:
    """Open a model folder.

    Raises:
        ModelError: no such folder, or config.json or the weight files cannot be used.
    """
    folder = _folder(reference)
    config = _read_json(folder, folder / "config.json", CONFIG_LIMIT)
    quantised.check_config(folder / "config.json", config)
    paths, index = _weight_files(folder)
    suffixes = dict.fromkeys(path.suffix for path in paths)
    formats = {suffix: registry.provide("readers", suffix.removeprefix(".")) for suffix in suffixes}
    files: list[Reader] = []
    stamps: dict[Path, Stamp] = {}
    try:
        for path in paths:
            _check_link(folder, path)
            with contextlib.suppress(OSError):  # which the reader says better
                stamps[path] = stamp(path)
            files.append(formats[path.suffix](path))
        stored = _owners(paths, files)
        if index is not None:
            places = {name: path.name for path, file in zip(paths, files) for name in file.tensors}
            _check_index(index, places)
        readers = quantised.dequantised(folder, config, stored)
    except BaseException:
        for file in files:
            file.close()
        raise
    tensors = {name: reader.tensors[name] for name, reader in readers.items()}
    kept = {key: value for key, value in config.items() if key != quantised.KEY}
    return Checkpoint(reference, folder, kept, tensors, readers, files, stamps, card=read_card(folder))


def _folder(reference: str) -> Path:
    try:
        folder = Path(reference).expanduser()
        if folder.is_dir():
            return folder
    except (OSError, ValueError, RuntimeError):  # a name that is too long or no name, or a user's who is not there
        pass
    raise ModelError(f"{reference}: there is no such folder; give the path of a model folder with its config.json")


def _owners(paths: list[Path], files: list[Reader]) -> dict[str, Reader]:
    """The reader of each tensor, in the files' order."""
    owners: dict[str, Reader] = {}
    for path, file in zip(paths, files):
        for name in file.tensors:
            if name in owners:
                raise ModelError(f"{path}: {name!r} is in another file of the folder too; remove the stale file")
            owners[name] = file
    return owners


def _check_link(folder: Path, path: Path) -> None:
    if not lies_within(folder, path):
        raise ModelError(f"{path}: is a link that leads out of the model's folder; put the file itself there")


def _read_json(folder: Path, path: Path, limit: int) -> Mapping[str, Any]:
    """The JSON object in a model's file."""
    _check_link(folder, path)
    try:
        value = json.loads(read_text(path, limit))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must hold a JSON object")
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT):
        level = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)]
        level = [item for item in level if isinstance(item, (dict, list))]
    if level:
        raise ModelError(f"{path}: is nested more than {DEPTH_LIMIT} levels deep, as no such file is")
    return value


STEMS = ("model", "pytorch_model")
"""What loaders call a checkpoint's single file or index, before its suffix."""

NOT_WEIGHTS = ("adapter_", "training_args", "optimizer", "scheduler", "rng_state")
"""How files begin that lie beside weights and have their suffix."""


def _weight_files(folder: Path) -> tuple[list[Path], Index | None]:
    """The files that hold the weights, and their index: the first format that is there, safetensors before others."""
    for suffix in _suffixes():
        single = next((path for stem in STEMS if os.path.lexists(path := folder / f"{stem}.{suffix}")), None)
        names = (f"{stem}.{suffix}.index.json" for stem in STEMS)
        index = next((path for name in names if os.path.lexists(path := folder / name)), None)
        if index:
            places = _read_index(index, suffix)
            shards = [folder / name for name in dict.fromkeys(places.values())]
            if single and shards != [single]:
                both = f"{single.name} and {index.name}, which different tools prefer"
                raise ModelError(f"{folder}: has both {both}; remove the stale one")
            return shards, Index(index, places)
        others = sorted(path for path in folder.glob(f"*.{suffix}") if not path.name.startswith(NOT_WEIGHTS))
        if single or len(others) == 1:
            return [single or others[0]], None
        if others:
            raise ModelError(f"{folder}: has {len(others)} .{suffix} files and no index; fetch its .index.json too")
    raise ModelError(f"{folder}: {_why_no_weights(folder)}")


def _suffixes() -> Iterator[str]:
    """Of the files that installed readers read; to look for readers takes time, and most models do without."""
    yield "safetensors"
    yield from (plugin.name for plugin in listed("readers"))


def _why_no_weights(folder: Path) -> str:
    if (folder / "adapter_config.json").exists():
        return "this is an adapter, not a model; merge it into its base model first"
    found = sorted({path.name for suffix in ("bin", "pt", "pth", "gguf") for path in folder.glob(f"*.{suffix}")})
    if not found:
        return "has no weight files, such as model.safetensors"
    return f"has only {', '.join(found[:3])}, which no installed reader reads; for .bin: pip install mergecore-pytorch"


def _read_index(path: Path, suffix: str) -> Mapping[str, str]:
    """The file of each tensor, as an index says: files of its own format beside it."""
    places = _read_json(path.parent, path, INDEX_LIMIT).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{path}: its 'weight_map' must map tensor names to file names")
    for name in dict.fromkeys(places.values()):
        if "/" in name or "\\" in name or "\0" in name:
            raise ModelError(f"{path}: names {name!r}, outside its own folder; fetch the checkpoint again")
        if not name.endswith(f".{suffix}"):
            raise ModelError(f"{path}: names {name!r}, which is no .{suffix} file; fetch the checkpoint again")
        if not os.path.lexists(path.parent / name):
            raise ModelError(f"{path.parent / name}: is named by {path.name} but is not there; fetch it again")
    return places


def _check_index(index: Index, stored: Mapping[str, str]) -> None:
    """An index that disagrees with the headers means files from two checkpoints in one folder."""
    wrong = index.places.items() ^ stored.items()
    if wrong:
        raise ModelError(
            f"{index.path}: does not agree with its files on {min(wrong)[0]!r}; fetch the checkpoint again"
        )
