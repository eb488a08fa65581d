"""The output folder and its neighbors: checked before the run, and moved into place atomically at the end."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from mergecore.errors import InputError
from mergecore.running.locks import hold_lock


class OutputFolder:
    """An output folder OUT, its run lock ``OUT.lock``, and ``OUT.partial`` with the files of an unfinished run.

    Args:
        out: the output path as given.
        file: the name of the result's only file, if OUT is that file instead of a folder.

    Attributes:
        out: the output path as given.
        folder: the output path with links resolved, so that renames to it stay on one disk.
        result: folder with the files so far. This folder, or its only file, becomes OUT.
        journal: lists the tensors in it that are finished.
    """

    def __init__(self, out: Path, file: str | None = None) -> None:
        self.out, self._file = out, file
        self.folder = Path(os.path.realpath(out))
        self.lock, self.partial = (self.folder.parent / f"{self.folder.name}.{what}" for what in ("lock", "partial"))
        self.result, self.journal = self.partial / "result", self.partial / "journal"
        self._replaced = self.partial / "replaced"

    def check(self, inputs: Iterable[Path], size: int, force: bool) -> None:
        """Raise InputError if the output exists, contains an input folder, or does not fit on the disk."""
        for folder in (folder.resolve() for folder in inputs):
            if folder.is_relative_to(self.folder) or folder.is_relative_to(self.partial):
                raise InputError(f"{self.out}: is or contains a model to merge; choose another output folder")
        if self.folder.exists() and self.folder.is_dir() is not (self._file is None):
            is_, give = ("file", "folder") if self._file is None else ("folder", "file")
            raise InputError(f"{self.out}: is a {is_}; use the name of a {give}")
        if os.path.ismount(self.folder):
            raise InputError(f"{self.out}: is a mount point and cannot be replaced; use a folder inside it")
        if self.folder.exists() and (self._file or any(self.folder.iterdir())) and not force:
            raise InputError(f"{self.out}: already exists; use another name, or --force to replace it")
        parent = next(path for path in self.folder.parents if path.exists())
        free = shutil.disk_usage(parent).free
        needed = size - sum(path.lstat().st_blocks * 512 for path in self.partial.glob("*/*"))
        if free < needed:
            raise InputError(
                f"{parent}: has {free / 1e9:.1f} GB free, but the result needs {needed / 1e9:.1f} GB; free some space"
            )

    def hold(self) -> AbstractContextManager[None]:
        """Hold the run lock, so that no other run writes here.

        Raises:
            InputError: if another process holds it or might hold it on another machine, or if it cannot be created.
        """
        return hold_lock(self.lock)

    def restore(self) -> None:
        """Restore the old output folder if a run was interrupted while replacing it."""
        if self._replaced.exists() and not self.folder.exists():
            os.replace(self._replaced, self.folder)

    def clear(self) -> None:
        """Remove all files of an unfinished run."""
        if self.partial.exists():
            shutil.rmtree(self.partial)

    def files(self) -> dict[str, int]:
        """Return the size of every file in the result, by relative path."""
        paths = (path for path in self.result.rglob("*") if path.is_file())
        return {path.relative_to(self.result).as_posix(): path.stat().st_size for path in paths}

    def keep(self, files: Mapping[str, int]) -> bool:
        """Remove all files in the result except these. Return False if one of these has a different size."""
        there = self.files()
        for name in there.keys() - files.keys():
            (self.result / name).unlink()
        return files.items() <= there.items()

    def sync(self) -> None:
        """Return once the whole result is on disk."""
        _sync(self.result)

    def publish(self, force: bool) -> None:
        """Sync the result to disk and rename it to OUT. A folder that it replaces stays in place until then."""
        self.sync()
        shutil.rmtree(self._replaced, ignore_errors=True)
        try:
            if force and self.folder.exists():
                os.replace(self.folder, self._replaced)
            self._place()
        except BaseException:
            self.restore()
            raise
        _sync_one(self.folder.parent)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _place(self) -> None:
        """Rename the result to OUT. Fail if someone else created OUT in the meantime."""
        if self._file is not None and self.folder.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.folder))
        os.replace(self.result / (self._file or ""), self.folder)


def _sync(folder: Path) -> None:
    """Wait until a folder and its contents are on disk."""
    for path in folder.iterdir():
        if path.is_symlink():
            continue
        if path.is_dir():
            _sync(path)
        else:
            _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system does not support it for folders
            raise
    finally:
        os.close(file)
