"""The output folder and its neighbours: refused at the start, put in place whole at the end."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from mergecore.errors import InputError


class Target:
    """An output folder OUT, its lock ``OUT.lock``, and ``OUT.partial`` with all that an unfinished run keeps.

    Args:
        out: as it was given.
        file: the name of the result's only file, where OUT is to be that file and no folder.

    Attributes:
        out: as it was given.
        folder: where it is, free of links, so that a rename to it is one on its own disk.
        result: the files so far; this folder, or its only file, becomes OUT.
        journal: says which of the tensors in it are finished.
    """

    def __init__(self, out: Path, file: str | None = None) -> None:
        self.out, self._file = out, file
        self.folder = Path(os.path.realpath(out))
        self.lock, self.partial = (self.folder.parent / f"{self.folder.name}.{what}" for what in ("lock", "partial"))
        self.result, self.journal = self.partial / "result", self.partial / "journal"
        self._replaced = self.partial / "replaced"

    def check(self, inputs: Iterable[Path], size: int, force: bool) -> None:
        """Raise InputError for a folder that is in the way, holds an input folder, or does not fit on the disk."""
        for folder in (folder.resolve() for folder in inputs):
            if folder.is_relative_to(self.folder) or folder.is_relative_to(self.partial):
                raise InputError(f"{self.out}: is one of the models to merge, or holds one; give another output folder")
        if self.folder.exists() and self.folder.is_dir() is not (self._file is None):
            is_, give = ("file", "folder") if self._file is None else ("folder", "file")
            raise InputError(f"{self.out}: is a {is_}; give the name of a {give}")
        if os.path.ismount(self.folder):
            raise InputError(f"{self.out}: is where a disk is mounted and cannot be replaced; give a folder in it")
        if self.folder.exists() and (self._file or any(self.folder.iterdir())) and not force:
            raise InputError(f"{self.out}: exists already; give another name, or --force to replace it")
        parent = next(path for path in self.folder.parents if path.exists())
        free = shutil.disk_usage(parent).free
        needed = size - sum(path.lstat().st_blocks * 512 for path in self.partial.glob("*/*"))
        if free < needed:
            raise InputError(
                f"{parent}: has {free / 1e9:.1f} GB free, the result needs {needed / 1e9:.1f} GB; make room"
            )

    def restore(self) -> None:
        """Bring back a folder that a run moved away to replace it, when it was stopped before it had replaced it."""
        if self._replaced.exists() and not self.folder.exists():
            os.replace(self._replaced, self.folder)

    def clear(self) -> None:
        """Remove all that an unfinished run kept."""
        if self.partial.exists():
            shutil.rmtree(self.partial)

    def files(self) -> dict[str, int]:
        """The length of every file of the result, by its path in it."""
        paths = (path for path in self.result.rglob("*") if path.is_file())
        return {path.relative_to(self.result).as_posix(): path.stat().st_size for path in paths}

    def keep(self, files: Mapping[str, int]) -> bool:
        """Remove what is in the result beside these files; False when one of them is not as long as it was."""
        there = self.files()
        for name in there.keys() - files.keys():
            (self.result / name).unlink()
        return files.items() <= there.items()

    def sync(self) -> None:
        """Return when all of the result is safe on the disk."""
        _sync(self.result)

    def publish(self, force: bool) -> None:
        """Make the result safe on the disk and give it its name; a folder that it replaces stays until then."""
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
        """Give the result its name; fails when somebody else has taken that meanwhile."""
        if self._file is not None and self.folder.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.folder))
        os.replace(self.result / (self._file or ""), self.folder)


def _sync(folder: Path) -> None:
    """Wait until a folder with all in it is on the disk."""
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
        if error.errno != errno.EINVAL:  # a file system that cannot do it for folders
            raise
    finally:
        os.close(file)
