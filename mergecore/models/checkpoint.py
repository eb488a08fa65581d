"""From a model reference to its config and the headers of its weight files; weights stay unread."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api import ModelInfo, Reader, TensorInfo, lies_within, read_card, read_text
from mergecore.discovery import Registry, listed
from mergecore.errors import ModelError, RunError
from mergecore.models import hub, quantized
from mergecore.models.hub_errors import endpoint
from mergecore.models.references import listed_names, locate
from mergecore.models.remote_files import open_files
from mergecore.models.stamps import Stamp

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
class Added:
    """An adapter that was added to a model: where it is, what it is in a few words, how many tensors it changes."""

    folder: Path
    summary: str
    tensors: int


@dataclass(frozen=True)
class Checkpoint:
    """An opened model.

    Attributes:
        reference: the model as the recipe writes it.
        folder: where its files are.
        config: its config.json, without what it says about quantisation.
        tensors: every tensor of its weight files, from their headers; fp8 ones as they are read, dequantised.
        readers: what reads each tensor.
        files: the readers of its files.
        stamps: its weight files, as they were before they were opened; those that are still on the Hub are left out.
        adapters: what was added to the model.
        made_of: a digest of what decides the tensors that readers compute and no file holds.
        card: what its README.md says of licence and language.
        snapshot: its commit on the Hub; None: it is a local folder.
        notes: what the author of the recipe should know of how it was opened.
    """

    reference: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    readers: Mapping[str, Reader]
    files: Sequence[Reader]
    stamps: Mapping[Path, Stamp]
    adapters: Sequence[Added] = ()
    made_of: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    snapshot: hub.Snapshot | None = None
    notes: tuple[str, ...] = ()

    @property
    def info(self) -> ModelInfo:
        """What plugins are told of it."""
        return ModelInfo(self.reference, self.folder, self.config, self.card, self.revision)

    @property
    def revision(self) -> str | None:
        """The hash of its commit on the Hub; None: it is a local folder."""
        return self.snapshot.commit if self.snapshot else None

    @property
    def origin(self) -> str:
        """What tells it from all other models: ``org/name@commit``, or its folder, links followed, and adapters."""
        base = f"{self.snapshot.repo}@{self.snapshot.commit}" if self.snapshot else str(self.folder.resolve())
        return "+".join([base, *(str(adapter.folder.resolve()) for adapter in self.adapters)])

    @property
    def folders(self) -> list[Path]:
        """Where all of it comes from."""
        return [self.folder, *(adapter.folder for adapter in self.adapters)]

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` with a tensor's elements from `start` on; see `mergecore.api.Reader.read`."""
        try:
            self.readers[name].read(name, start, out)
        except OSError as error:
            raise RunError(f"{self.folder}: {name}: cannot be read: {error.strerror or error}") from error

    def close(self) -> None:
        """Let go of the files."""
        for file in self.files:
            file.close()


def open_folder(reference: str, registry: Registry) -> Checkpoint:
    """Open a model: a local folder, or one on the Hub, of which only headers and small files are fetched.

    Raises:
        ModelError: there is no such model, or config.json or the weight files cannot be used.
    """
    folder, snapshot = locate(reference)
    names = snapshot.names if snapshot else listed_names(folder)
    if snapshot and "config.json" not in names:
        raise ModelError(f"{reference}: has no config.json at {endpoint()}, so it is no model that can be merged")
    config = _read_json(folder, folder / "config.json", CONFIG_LIMIT)
    quantized.check_config(folder / "config.json", config)
    try:
        paths, index = _weight_files(folder, names)
    except ModelError as error:
        if snapshot and snapshot.note:
            raise ModelError(f"{error}; {snapshot.note}") from None
        raise
    for path in paths:
        check_link(folder, path)
    formats = {path.suffix: registry.provide("readers", path.suffix.removeprefix(".")) for path in paths}
    files, stamps, notes = open_files(snapshot, paths, formats)
    try:
        stored = _owners(paths, files)
        if index is not None:
            places = {name: path.name for path, file in zip(paths, files) for name in file.tensors}
            _check_index(index, places)
        readers = quantized.dequantised(folder, config, stored)
    except BaseException:
        for file in files:
            file.close()
        raise
    tensors = {name: reader.tensors[name] for name, reader in readers.items()}
    kept = {key: value for key, value in config.items() if key != quantized.KEY}
    return Checkpoint(
        reference, folder, kept, tensors, readers, files, stamps, card=read_card(folder), snapshot=snapshot, notes=notes
    )


def _owners(paths: Sequence[Path], files: Sequence[Reader]) -> dict[str, Reader]:
    """The reader of each tensor, in the files' order."""
    owners: dict[str, Reader] = {}
    for path, file in zip(paths, files):
        for name in file.tensors:
            if name in owners:
                raise ModelError(f"{path}: {name!r} is in another file of the folder too; remove the stale file")
            owners[name] = file
    return owners


def check_link(folder: Path, path: Path) -> None:
    """Raise ModelError for a file that is a link out of its model's folder."""
    if not lies_within(folder, path):
        raise ModelError(f"{path}: is a link that leads out of the model's folder; put the file itself there")


def _read_json(folder: Path, path: Path, limit: int) -> Mapping[str, Any]:
    """The JSON object in a model's file."""
    check_link(folder, path)
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


def _weight_files(folder: Path, names: Set[str]) -> tuple[list[Path], Index | None]:
    """The files that hold the weights, and their index: the first format that is there, safetensors before others.

    Args:
        folder: of the model.
        names: of all files in it, or on the Hub.
    """
    for suffix in _suffixes():
        single = next((name for stem in STEMS if (name := f"{stem}.{suffix}") in names), None)
        index = next((name for stem in STEMS if (name := f"{stem}.{suffix}.index.json") in names), None)
        if index:
            places = _read_index(folder / index, suffix, names)
            shards = list(dict.fromkeys(places.values()))
            if single and shards != [single]:
                raise ModelError(
                    f"{folder}: has both {single} and {index}, which different tools prefer; remove the stale one"
                )
            return [folder / name for name in shards], Index(folder / index, places)
        others = sorted(n for n in names if n.endswith(f".{suffix}") and not n.startswith(NOT_WEIGHTS))
        if single or len(others) == 1:
            return [folder / (single or others[0])], None
        if others:
            raise ModelError(f"{folder}: has {len(others)} .{suffix} files and no index; fetch its .index.json too")
    raise ModelError(f"{folder}: {_why_no_weights(names)}")


def _suffixes() -> Iterator[str]:
    """Of the files that installed readers read; to look for readers takes time, and most models do without."""
    yield "safetensors"
    yield from (plugin.name for plugin in listed("readers"))


def _why_no_weights(names: Set[str]) -> str:
    if "adapter_config.json" in names:
        return "this is an adapter, not a model; add it to its base model: write BASE+ADAPTER"
    found = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf")))
    if not found:
        return "has no weight files, such as model.safetensors"
    return f"has only {', '.join(found[:3])}, which no installed reader reads; for .bin: pip install mergecore-pytorch"


def _read_index(path: Path, suffix: str, names: Set[str]) -> Mapping[str, str]:
    """The file of each tensor, as an index says: files of its own format beside it."""
    places = _read_json(path.parent, path, INDEX_LIMIT).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{path}: its 'weight_map' must map tensor names to file names")
    for name in dict.fromkeys(places.values()):
        if "/" in name or "\\" in name or "\0" in name:
            raise ModelError(f"{path}: names {name!r}, outside its own folder; fetch the checkpoint again")
        if not name.endswith(f".{suffix}"):
            raise ModelError(f"{path}: names {name!r}, which is no .{suffix} file; fetch the checkpoint again")
        if name not in names:
            raise ModelError(f"{path.parent / name}: is named by {path.name} but is not there; fetch it again")
    return places


def _check_index(index: Index, stored: Mapping[str, str]) -> None:
    """An index that disagrees with the headers means files from two checkpoints in one folder."""
    wrong = index.places.items() ^ stored.items()
    if wrong:
        raise ModelError(
            f"{index.path}: does not agree with its files on {min(wrong)[0]!r}; fetch the checkpoint again"
        )
