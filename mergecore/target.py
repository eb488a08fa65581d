"""The output folder and its neighbours: refused at the start, put in place whole at the end."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from mergecore.errors import InputError
from mergecore.plans import Plan


class Target:
    """An output folder OUT, its lock ``OUT.lock``, and ``OUT.partial`` with all that an unfinished run keeps.

    Attributes:
        out: as it was given.
        folder: where it is, free of links, so that a rename to it is one on its own disk.
        result: the files so far; this folder becomes OUT.
        journal: says which of the tensors in it are finished.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = Path(os.path.realpath(out))
        self.lock, self.partial = (self.folder.parent / f"{self.folder.name}.{what}" for what in ("lock", "partial"))
        self.result, self.journal = self.partial / "result", self.partial / "journal"
        self._replaced = self.partial / "replaced"

    def check(self, plan: Plan, force: bool) -> None:
        """Raise InputError for a folder that is in the way, holds an input, or does not fit on the disk."""
        for folder in (checkpoint.folder.resolve() for checkpoint in plan.models):
            if folder.is_relative_to(self.folder) or folder.is_relative_to(self.partial):
                raise InputError(f"{self.out}: is one of the models to merge, or holds one; give another output folder")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.out}: is a file; give the name of a folder")
        if os.path.ismount(self.folder):
            raise InputError(f"{self.out}: is where a disk is mounted and cannot be replaced; give a folder in it")
        if self.folder.exists() and any(self.folder.iterdir()) and not force:
            raise InputError(f"{self.out}: exists already; give another folder, or --force to replace it")
        parent = next(path for path in self.folder.parents if path.exists())
        free = shutil.disk_usage(parent).free
        needed = plan.bytes_out - sum(path.lstat().st_blocks * 512 for path in self.partial.glob("*/*"))
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
            os.replace(self.result, self.folder)  # fails when somebody has filled the folder meanwhile
        except BaseException:
            self.restore()
            raise
        _sync_one(self.folder.parent)
        shutil.rmtree(self.partial, ignore_errors=True)


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
