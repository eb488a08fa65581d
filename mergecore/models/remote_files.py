"""Weight files on the Hub: range requests for their headers tell what they hold before they are fetched."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mergecore.api import Reader, TensorInfo
from mergecore.builtin import HEADER_LIMIT
from mergecore.errors import ModelError
from mergecore.models.hub import CONNECTIONS, Snapshot, each
from mergecore.models.stamps import Stamp, stamp

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
"""Of the files that begin with their header; all others are fetched whole to be looked into."""


class Shard:
    """A safetensors file of a model on the Hub; a `mergecore.api.Reader`, of which `read` works once it is fetched.

    Attributes:
        snapshot: whose it is.
        name: of the file.
        tensors: from its header.
        size: its bytes.
        stamp: the file's in the cache, as it was before it was opened; None: it is not fetched yet.
    """

    def __init__(self, snapshot: Snapshot, name: str, make: type[Reader]) -> None:
        self.snapshot, self.name, self._make = snapshot, name, make
        self.tensors: Mapping[str, TensorInfo]
        self.size: int
        self.stamp: Stamp | None = None
        self._reader: Reader | None = None
        if snapshot.has(name):
            self._open()
            assert self._reader is not None
            self.tensors, self.size = self._reader.tensors, self.path.stat().st_size
        else:
            self.tensors, self.size = _looked_into(snapshot, name, make)

    @property
    def path(self) -> Path:
        """Where the file is once it is fetched."""
        return self.snapshot.folder / self.name

    @property
    def here(self) -> bool:
        """Whether it can be read."""
        return self._reader is not None

    def fetch(self, advance: Callable[[int], None]) -> None:
        """Bring the file into the cache, unless it is there; see `Snapshot.fetch`.

        Raises:
            ModelError: it cannot be had, or is not what its header said.
        """
        if self.here:
            return
        self.snapshot.fetch(self.name, advance)
        self._open()
        assert self._reader is not None
        if self._reader.tensors != self.tensors:
            raise ModelError(f"{self.path}: is not the file whose header was read before; delete it and run again")

    def read(self, name: str, start: int, out: Tensor) -> None:
        """See `mergecore.api.Reader.read`."""
        if self._reader is None:
            raise ModelError(f"{self.snapshot.label(self.name)}: is read before it is fetched; report this as a fault")
        self._reader.read(name, start, out)

    def close(self) -> None:
        """Let go of the file."""
        if self._reader is not None:
            self._reader.close()

    def _open(self) -> None:
        self.stamp = stamp(self.path)
        self._reader = self._make(self.path)


def open_files(
    snapshot: Snapshot | None, paths: Sequence[Path], formats: Mapping[str, type[Reader]]
) -> tuple[Sequence[Reader], Mapping[Path, Stamp], tuple[str, ...]]:
    """Open the weight files of a model.

    Args:
        snapshot: its commit on the Hub; None: it is a local folder.
        paths: where they are, or will be once they are fetched.
        formats: what reads them, by suffix.

    Returns:
        Their readers, the stamps of those that are here to stay, and what the author of the recipe should know.

    Raises:
        ModelError: a file, or its header, cannot be had or is wrong.
    """
    notes: tuple[str, ...] = (snapshot.note,) if snapshot and snapshot.note else ()
    if snapshot and all(path.suffix == SUFFIX for path in paths):
        return _open_each(paths, lambda path: Shard(snapshot, path.name, formats[SUFFIX]), CONNECTIONS), {}, notes
    if snapshot:
        notes += _fetched(snapshot, paths)
    stamps: dict[Path, Stamp] = {}

    def opened(path: Path) -> Reader:
        with contextlib.suppress(OSError):  # which the reader says better
            stamps[path] = stamp(path)
        return formats[path.suffix](path)

    return _open_each(paths, opened, 1), stamps, notes


def _open_each(paths: Sequence[Path], make: Callable[[Path], Reader], threads: int) -> list[Reader]:
    """One reader for each path; where one fails, the others are closed."""
    found: dict[Path, Reader] = {}
    try:
        each(paths, lambda path, _: found.update({path: make(path)}), threads)
    except BaseException:
        for reader in found.values():
            reader.close()
        raise
    return [found[path] for path in paths]


def _fetched(snapshot: Snapshot, paths: Sequence[Path]) -> tuple[str, ...]:
    """Download weight files whose tensors are not told by their beginning; the note that says so."""
    missing = [path.name for path in paths if not snapshot.has(path.name)]
    if not missing:
        return ()
    each(missing, lambda name, check: snapshot.fetch(name, lambda _: check()))
    count = sum((snapshot.folder / name).stat().st_size for name in missing)
    why = f"has no {SUFFIX} files, whose headers tell what they hold"
    return (f"{snapshot.repo}: {why}, so its {paths[0].suffix} files ({count / 1e6:,.0f} MB) were fetched to plan",)


def shards_of(reader: Reader, name: str) -> Iterator[Shard]:
    """The files on the Hub that a tensor is read from, through all views of it."""
    if isinstance(reader, Shard):
        yield reader
    parts = getattr(reader, "parts", None)
    for inner, tensor, _ in parts(name) if parts else ():
        yield from shards_of(inner, tensor)


def _looked_into(snapshot: Snapshot, name: str, make: type[Reader]) -> tuple[Mapping[str, TensorInfo], int]:
    """What the reader makes of a file that has its header and its length, and holes for the weights."""
    start, size = snapshot.start_of(name, 8)
    length = int.from_bytes(start, "little")
    if length <= min(HEADER_LIMIT, size - 8):  # else the reader says what is wrong with it
        start, size = snapshot.start_of(name, 8 + length)
    with tempfile.TemporaryDirectory(prefix="mergecore-") as folder:
        path = Path(folder) / name
        try:
            path.write_bytes(start)
            os.truncate(path, size)
        except (OSError, OverflowError) as error:
            raise ModelError(f"{snapshot.label(name)}: is said to have {size} bytes, as no file has: {error}") from None
        try:
            reader = make(path)
        except ModelError as error:
            raise ModelError(str(error).replace(str(path), snapshot.label(name))) from None
        try:
            return reader.tensors, size
        finally:
            reader.close()
