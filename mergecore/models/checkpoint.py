"""Open a model by reference: its config, and the headers of its weight files. The weights are not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api import ModelInfo, Reader, TensorInfo, lies_within, read_card, read_json
from mergecore.api.memory import read_into
from mergecore.discovery import Registry, list_plugins
from mergecore.errors import ModelError, RunError
from mergecore.models import hub, quantized
from mergecore.models.not_models import ADAPTER, AN_ADAPTER, check_unwrapped, why_no_model
from mergecore.models.references import listed_names, locate_model
from mergecore.models.remote_files import open_files
from mergecore.models.sentence_modules import (
    MODULE_WEIGHTS,
    STATIC,
    Labeled,
    SentenceModule,
    first_module,
    read_modules,
)
from mergecore.models.stamps import Stamp

if TYPE_CHECKING:
    from torch import Tensor


CONFIG_LIMIT, INDEX_LIMIT = 10_000_000, 100_000_000
"""Maximum sizes of config.json and an index in bytes. The largest known files are a tenth of that size."""


@dataclass(frozen=True)
class Index:
    """An index file, and the file name of each tensor in it."""

    path: Path
    places: Mapping[str, str]


@dataclass(frozen=True)
class Added:
    """An adapter added to a model: its folder, a short description, and the number of tensors it changes."""

    folder: Path
    summary: str
    tensors: int


@dataclass(frozen=True)
class Checkpoint:
    """An opened model.

    Attributes:
        reference: the model as written in the recipe.
        folder: folder of its files.
        config: contents of its config.json, without quantization settings.
        tensors: every tensor in its weight files, from their headers. Fp8 tensors have the dequantized dtype.
        readers: the reader of each tensor.
        files: the readers of its files.
        stamps: stamps of its weight files before they were opened. Files that are still on the Hub are not included.
        adapters: the adapters added to the model.
        made_of: a digest of everything that affects tensors that are computed on read.
        card: license and language from its README.md.
        snapshot: its commit on the Hub. None for a local folder.
        notes: notes for the author of the recipe.
        tokenizer: folder of its tokenizer, if an adapter has its own. None if it is in `folder`.
        modules: the other modules of a sentence-transformers model. The names of their tensors start with their path.
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
    modules: tuple[SentenceModule, ...] = ()
    tokenizer: Path | None = None

    @property
    def info(self) -> ModelInfo:
        """The description of the model for plugins."""
        return ModelInfo(
            self.reference, self.folder, self.config, self.card, self.revision, tensors=self.tensors,
            tokenizer=self.tokenizer,
        )  # fmt: skip

    @property
    def revision(self) -> str | None:
        """The hash of its commit on the Hub. None for a local folder."""
        return self.snapshot.commit if self.snapshot else None

    @property
    def origin(self) -> str:
        """A unique identifier: ``org/name@commit`` or the resolved folder, followed by adapters."""
        base = f"{self.snapshot.repo}@{self.snapshot.commit}" if self.snapshot else str(self.folder.resolve())
        return "+".join([base, *(str(adapter.folder.resolve()) for adapter in self.adapters)])

    @property
    def folders(self) -> list[Path]:
        """All folders that it is read from."""
        return [self.folder, *(adapter.folder for adapter in self.adapters)]

    def in_module(self, name: str) -> bool:
        """Return whether a tensor belongs to another module of a sentence-transformers model."""
        return any(name.startswith(f"{module.path}/") for module in self.modules)

    def read(self, name: str, start: int, out: Tensor | memoryview) -> None:
        """Fill a tensor, or its memory, with elements of a tensor from `start` on. See `mergecore.api.Reader.read`."""
        try:
            read_into(self.readers[name], name, start, out)
        except OSError as error:
            raise RunError(f"{self.folder}: {name}: cannot be read: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()


def open_folder(reference: str, registry: Registry) -> Checkpoint:
    """Open a model in a local folder or on the Hub. For the Hub, download only headers and small files.

    Raises:
        ModelError: if there is no such model, or config.json or the weight files cannot be used.
    """
    root, snapshot = locate_model(reference)
    first = first_module(root)
    inside = first.path if first else ""  # older sentence-transformers put the transformer in a subfolder
    folder = root / inside
    names = snapshot.names_in(inside) if snapshot else listed_names(folder)
    static = first is not None and first.kind == STATIC
    if "config.json" not in names and not static:
        raise ModelError(f"{reference}: {why_no_model(reference, names, None if snapshot else folder)}")
    config: Mapping[str, Any] = {"architectures": [STATIC]}
    if "config.json" in names:
        check_link(root, folder / "config.json")
        config = read_json(folder / "config.json", CONFIG_LIMIT)
        quantized.check_config(folder / "config.json", config)
    modules = read_modules(folder)
    more = {path: f"{module.path}/" for module in modules if (path := _module_file(root / module.path, snapshot, root))}
    readers, files, stamps, notes = _open_weights(root, folder, names, snapshot, config, more, registry)
    tensors = {name: reader.tensors[name] for name, reader in readers.items()}
    kept = {key: value for key, value in config.items() if key != quantized.KEY}
    if static:
        kept["vocab_size"] = max((info.shape[0] for info in tensors.values() if len(info.shape) == 2), default=0)
    if snapshot is None and root != Path(reference).expanduser():
        notes = (*notes, f"{reference}: is a local folder, so its revision has no effect")
    return Checkpoint(
        reference, folder, kept, tensors, readers, files, stamps, card=read_card(root), snapshot=snapshot, notes=notes,
        modules=modules,
    )  # fmt: skip


def _open_weights(
    root: Path,
    folder: Path,
    names: Set[str],
    snapshot: hub.Snapshot | None,
    config: Mapping[str, Any],
    modules: Mapping[Path, str],
    registry: Registry,
) -> tuple[Mapping[str, Reader], Sequence[Reader], Mapping[Path, Stamp], tuple[str, ...]]:
    """Open the weight files of a model, and those of its sentence-transformers modules by their labels.

    Returns:
        The reader of each tensor, and what `open_files` returns.
    """
    try:
        paths, index = _weight_files(folder, names)
    except ModelError as error:
        if snapshot and snapshot.note:
            raise ModelError(f"{error}; {snapshot.note}") from None
        raise
    every = [*paths, *modules]
    for path in every:
        check_link(root, path)
    formats = {path.suffix: registry.provide("readers", path.suffix.removeprefix(".")) for path in every}
    files, stamps, notes = open_files(snapshot, every, formats)
    try:
        stored = _owners(paths, files[: len(paths)])
        check_unwrapped(folder, stored)
        if index is not None:
            places = {name: path.name for path, file in zip(paths, files) for name in file.tensors}
            _check_index(index, places)
        readers = dict(quantized.dequantize(folder, config, stored))
        for label, file in zip(modules.values(), files[len(paths) :]):
            labelled = Labeled(file, label)
            readers |= dict.fromkeys(labelled.tensors, labelled)
    except BaseException:
        for file in files:
            file.close()
        raise
    return readers, files, stamps, notes


def _module_file(folder: Path, snapshot: hub.Snapshot | None, root: Path) -> Path | None:
    """Return the weight file of a sentence-transformers module, or None if it has no weights."""
    names = snapshot.names_in(folder.relative_to(root).as_posix()) if snapshot else listed_names(folder)
    return next((folder / name for name in MODULE_WEIGHTS if name in names), None)


def _owners(paths: Sequence[Path], files: Sequence[Reader]) -> dict[str, Reader]:
    """Return the reader of each tensor, in the order of the files."""
    owners: dict[str, Reader] = {}
    for path, file in zip(paths, files):
        for name in file.tensors:
            if name in owners:
                raise ModelError(f"{path}: {name!r} is also in another file of this folder; remove the stale file")
            owners[name] = file
    return owners


def check_link(folder: Path, path: Path) -> None:
    """Raise ModelError if a file is a link to a location outside the model's folder."""
    if not lies_within(folder, path):
        raise ModelError(f"{path}: is a link to a file outside the model's folder; replace it with the file")


STEMS = ("model", "pytorch_model")
"""Names of a checkpoint's single file or index, without the suffix."""

NOT_WEIGHTS = ("adapter_", "training_args", "optimizer", "scheduler", "rng_state")
"""Name prefixes of other files that have the same suffix as weight files."""


def _weight_files(folder: Path, names: Set[str]) -> tuple[list[Path], Index | None]:
    """Find the weight files and their index. If there are several formats, prefer safetensors.

    Args:
        folder: folder of the model.
        names: names of all files in it, or on the Hub.
    """
    for suffix in _suffixes():
        single = next((name for stem in STEMS if (name := f"{stem}.{suffix}") in names), None)
        index = next((name for stem in STEMS if (name := f"{stem}.{suffix}.index.json") in names), None)
        if index:
            places = _read_index(folder / index, suffix, names)
            shards = list(dict.fromkeys(places.values()))
            if single and shards != [single]:
                raise ModelError(f"{folder}: has both {single} and {index}; remove the one that is out of date")
            return [folder / name for name in shards], Index(folder / index, places)
        others = sorted(n for n in names if n.endswith(f".{suffix}") and not n.startswith(NOT_WEIGHTS))
        if single or len(others) == 1:
            return [folder / (single or others[0])], None
        if others:
            raise ModelError(f"{folder}: has {len(others)} .{suffix} files but no index; download its .index.json too")
    raise ModelError(f"{folder}: {_why_no_weights(names)}")


def _suffixes() -> Iterator[str]:
    """Yield the suffixes of installed readers. Start with safetensors, because listing the readers takes time."""
    yield "safetensors"
    yield from (plugin.name for plugin in list_plugins("readers"))


def _why_no_weights(names: Set[str]) -> str:
    if ADAPTER in names:
        return AN_ADAPTER
    found = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf")))
    if not found:
        return "has no weight files, such as model.safetensors"
    return f"has only {', '.join(found[:3])}, but no reader for it; for .bin files: pip install mergecore-pytorch"


def _read_index(path: Path, suffix: str, names: Set[str]) -> Mapping[str, str]:
    """Read the file of each tensor from an index. Files must be next to the index and have the same format."""
    check_link(path.parent, path)
    places = read_json(path, INDEX_LIMIT).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{path}: its 'weight_map' must map tensor names to file names")
    for name in dict.fromkeys(places.values()):
        if "/" in name or "\\" in name or "\0" in name:
            raise ModelError(f"{path}: lists {name!r}, which is outside its folder; download the checkpoint again")
        if not name.endswith(f".{suffix}"):
            raise ModelError(f"{path}: lists {name!r}, which is not a .{suffix} file; download the checkpoint again")
        if name not in names:
            raise ModelError(f"{path.parent / name}: is listed in {path.name} but does not exist; download it again")
    return places


def _check_index(index: Index, stored: Mapping[str, str]) -> None:
    """Check that an index matches the headers. Otherwise, the folder contains files from two checkpoints."""
    if index.places != stored:
        wrong = min(index.places.items() ^ stored.items())[0]
        raise ModelError(f"{index.path}: does not match its files for {wrong!r}; download the checkpoint again")
