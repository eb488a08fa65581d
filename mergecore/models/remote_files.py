"""Weight files on the Hub. Range requests read their headers before the files are downloaded."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mergecore.api import BytesReader, Reader, TensorInfo
from mergecore.api.files import parts_of
from mergecore.api.memory import read_into
from mergecore.builtin import HEADER_LIMIT
from mergecore.errors import ModelError
from mergecore.models.hub import CONNECTIONS, Snapshot, fetch_in_parallel
from mergecore.models.stamps import Stamp, stamp_file

SUFFIX = ".safetensors"
"""Suffix of files that start with a header. All other files must be downloaded completely to read their contents."""


class Shard(BytesReader):
    """A `mergecore.api.Reader` for a safetensors file on the Hub. `read` works once the file is downloaded.

    Attributes:
        snapshot: the commit that the file belongs to.
        name: path of the file in the repository.
        tensors: the tensors in its header.
        size: size in bytes.
        stamp: stamp of the file in the cache before it was opened. None if it is not downloaded yet.
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
        """Path of the file once it is downloaded."""
        return self.snapshot.folder / self.name

    @property
    def here(self) -> bool:
        """Whether the file is downloaded and can be read."""
        return self._reader is not None

    def fetch(self, advance: Callable[[int], None]) -> None:
        """Download the file to the cache unless it is there. See `Snapshot.fetch`.

        Raises:
            ModelError: if it cannot be downloaded, or does not match the header read before.
        """
        if self.here:
            return
        self.snapshot.fetch(self.name, advance)
        self._open()
        assert self._reader is not None
        if self._reader.tensors != self.tensors:
            raise ModelError(f"{self.path}: does not match the header that was read before; delete it and run again")

    def read_bytes(self, name: str, start: int, out: memoryview) -> None:
        """See `mergecore.api.BytesReader.read_bytes`."""
        if self._reader is None:
            raise ModelError(f"{self.snapshot.label(self.name)}: read before it was downloaded; report this as a bug")
        read_into(self._reader, name, start, out)

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()

    def _open(self) -> None:
        self.stamp = stamp_file(self.path)
        self._reader = self._make(self.path)


def open_files(
    snapshot: Snapshot | None, paths: Sequence[Path], formats: Mapping[str, type[Reader]]
) -> tuple[Sequence[Reader], Mapping[Path, Stamp], tuple[str, ...]]:
    """Open the weight files of a model.

    Args:
        snapshot: its commit on the Hub. None for a local folder.
        paths: paths of the files, or where they will be once they are downloaded.
        formats: readers by suffix.

    Returns:
        The readers, the stamps of local files, and notes for the author of the recipe.

    Raises:
        ModelError: if a file or its header cannot be read or downloaded, or is invalid.
    """
    notes: tuple[str, ...] = (snapshot.note,) if snapshot and snapshot.note else ()
    if snapshot and all(path.suffix == SUFFIX for path in paths):
        folder, make = snapshot.folder, formats[SUFFIX]
        shards = _open_each(paths, lambda path: Shard(snapshot, path.relative_to(folder).as_posix(), make), CONNECTIONS)
        return shards, {}, notes
    if snapshot:
        notes += _fetched(snapshot, paths)
    stamps: dict[Path, Stamp] = {}

    def opened(path: Path) -> Reader:
        with contextlib.suppress(OSError):  # the reader has a better error message
            stamps[path] = stamp_file(path)
        return formats[path.suffix](path)

    return _open_each(paths, opened, 1), stamps, notes


def _open_each(paths: Sequence[Path], make: Callable[[Path], Reader], threads: int) -> list[Reader]:
    """Open one reader per path. If one fails, close the others."""
    found: dict[Path, Reader] = {}
    try:
        fetch_in_parallel(paths, lambda path, _: found.update({path: make(path)}), threads)
    except BaseException:
        for reader in found.values():
            reader.close()
        raise
    return [found[path] for path in paths]


def _fetched(snapshot: Snapshot, paths: Sequence[Path]) -> tuple[str, ...]:
    """Download weight files that do not start with a header. Return a note that says so."""
    names = [path.relative_to(snapshot.folder).as_posix() for path in paths]
    missing = [name for name in names if not snapshot.has(name)]
    if not missing:
        return ()
    fetch_in_parallel(missing, lambda name, check: snapshot.fetch(name, lambda _: check()))
    count = sum((snapshot.folder / name).stat().st_size for name in missing)
    why = f"has no {SUFFIX} files with readable headers"
    return (f"{snapshot.repo}: {why}, so planning downloaded its {paths[0].suffix} files ({count / 1e6:,.0f} MB)",)


def shards_of(reader: Reader, name: str) -> Iterator[Shard]:
    """Yield the files on the Hub that a tensor is read from, through all views."""
    if isinstance(reader, Shard):
        yield reader
    for inner, tensor, _ in parts_of(reader, name) or ():
        yield from shards_of(inner, tensor)


def _looked_into(snapshot: Snapshot, name: str, make: type[Reader]) -> tuple[Mapping[str, TensorInfo], int]:
    """Open a sparse file with the header and size of the real one. Return its tensors and size."""
    start, size = snapshot.start_of(name, 8)
    length = int.from_bytes(start, "little")
    if length <= min(HEADER_LIMIT, size - 8):  # otherwise, the reader reports the error
        start, size = snapshot.start_of(name, 8 + length)
    with tempfile.TemporaryDirectory(prefix="mergecore-") as folder:
        path = Path(folder) / Path(name).name
        try:
            path.write_bytes(start)
            os.truncate(path, size)
        except (OSError, OverflowError) as error:
            raise ModelError(f"{snapshot.label(name)}: has an invalid size of {size} bytes: {error}") from None
        try:
            reader = make(path)
        except ModelError as error:
            raise ModelError(str(error).replace(str(path), snapshot.label(name))) from None
        try:
            return reader.tensors, size
        finally:
            reader.close()
