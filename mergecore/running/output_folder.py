"""The output folder and its neighbors: checked before the run, and moved into place atomically at the end."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from mergecore.errors import InputError
from mergecore.running.exchange import exchange
from mergecore.running.locks import hold_lock
from mergecore.running.ownership import (
    MARKER,
    draft_for,
    foreign_entries,
    is_foreign_file,
    marker_for,
    read_marker,
    write_marker,
)
from mergecore.system import sync_path

NAMED = 5
"""Maximum number of entries that a message lists."""


class OutputFolder:
    """An output folder OUT, its run lock ``OUT.lock``, and ``OUT.partial`` with the files of an unfinished run.

    Args:
        out: the output path as given.
        file: the name of the result's only file, if OUT is that file instead of a folder.
        early: whether it is published before another output of the same run, which can still fail.

    Attributes:
        out: the output path as given.
        folder: the output path with links resolved, so that renames to it stay on one disk.
        result: folder with the files so far. This folder, or its only file, becomes OUT.
        journal: lists the tensors in it that are finished.
    """

    def __init__(self, out: Path, file: str | None = None, early: bool = False) -> None:
        self.out, self._file, self._early = out, file, early
        self.folder = Path(os.path.realpath(out))
        self.lock, self.partial = (self.folder.parent / f"{self.folder.name}.{what}" for what in ("lock", "partial"))
        self.result, self.journal = self.partial / "result", self.partial / "journal"
        self._replaced = self.partial / "replaced"

    def check(self, reads: Iterable[Path], size: int, force: bool) -> None:
        """Check that the output can be written without losing anything.

        Args:
            reads: every file and folder that the run reads.
            size: bytes that the result needs.
            force: whether OUT can be replaced if mergecore wrote it.

        Raises:
            InputError: if OUT exists, is or contains something that the run reads, or does not fit on the disk, or if
                its name is too long.
        """
        self._check_name()
        self._check_apart(reads)
        self._check_partial()
        if self.folder.exists() and self.folder.is_dir() is not (self._file is None):
            is_, give = ("file", "folder") if self._file is None else ("folder", "file")
            raise InputError(f"{self.out}: is a {is_}; use the name of a {give}")
        if os.path.ismount(self.folder):
            raise InputError(f"{self.out}: is a mount point and cannot be replaced; use a folder inside it")
        if self._occupied() and not self._waits():
            if not force:
                raise InputError(f"{self.out}: already exists; use another name, or --force to replace it")
            self._check_replaceable()
        parent = next(path for path in self.folder.parents if path.exists())
        free = shutil.disk_usage(parent).free
        needed = size - sum(path.lstat().st_blocks * 512 for path in self.partial.glob("*/*"))
        if free < needed:
            raise InputError(
                f"{parent}: has {free / 1e9:.1f} GB free, but the result needs {needed / 1e9:.1f} GB; free some space"
            )

    def _check_name(self) -> None:
        """Raise InputError if the name of OUT is so long that its neighbors cannot be created."""
        for neighbor in (self.partial, *([draft_for(marker_for(self.folder))] if self._file is not None else [])):
            try:
                os.lstat(neighbor)
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    raise InputError(f"{self.out}: the name is too long; use a shorter one") from None

    def _check_apart(self, reads: Iterable[Path]) -> None:
        """Raise InputError if OUT or OUT.partial is or contains the working folder or something that the run reads."""
        try:
            here = [Path.cwd()]
        except FileNotFoundError:  # it was deleted
            here = []
        places: dict[Path, Path] = {}
        for path in (*reads, *here):
            for place in _lineage(path):
                places.setdefault(place, path)
        for folder in (self.folder, self.partial):
            if found := _first_within(folder, places):
                what = "the working folder" if found in here else f"{found}, which this run reads"
                raise InputError(f"{self.out}: is or contains {what}; choose another output folder")

    def _check_partial(self) -> None:
        """Raise InputError if OUT.partial was not written by mergecore."""
        if not os.path.lexists(self.partial):
            return
        ours = {path.name for path in (self.result, self.journal, self._replaced)} | {MARKER, "journal.new"}
        entries = set(os.listdir(self.partial)) if self.partial.is_dir() and not self.partial.is_symlink() else {""}
        if entries and not (MARKER in entries and entries <= ours):
            raise InputError(
                f"{self.partial}: was not written by mergecore{_listed(sorted(entries - ours))}, but a run needs this"
                " name; rename it, or choose another output folder"
            )

    def _check_replaceable(self) -> None:
        """Raise InputError if OUT contains anything except an unchanged result of mergecore."""
        whole = f"to delete it yourself, run: rm -r {shlex.quote(str(self.out))}"
        if self._file is not None:
            if is_foreign_file(self.folder):
                raise InputError(f"{self.out}: was not written by mergecore, so --force does not replace it; {whole}")
        elif entries := foreign_entries(self.folder):
            if MARKER in entries or not (self.folder / MARKER).exists():
                why = f"was not written by mergecore{_listed(entries)}, so --force does not replace it"
            else:
                why = f"mergecore did not write everything in it{_listed(entries)}, so --force does not replace it"
            raise InputError(f"{self.out}: {why}; {whole}")

    def _occupied(self) -> bool:
        return self.folder.exists() and (self._file is not None or any(self.folder.iterdir()))

    def _waits(self) -> bool:
        """Return whether a run has published this folder, but was stopped before it published the others."""
        waits = self._early and self.journal.exists() and not self.result.exists()
        return waits and self.folder.exists() and not foreign_entries(self.folder)

    def hold(self) -> AbstractContextManager[None]:
        """Hold the run lock, so that no other run writes here.

        Raises:
            InputError: if another process holds it or might hold it on another machine, or if it cannot be created.
        """
        return hold_lock(self.lock)

    def restore(self) -> None:
        """Restore the old output folder if a run was interrupted while replacing it, or take back an early one."""
        self._check_partial()
        self._put_back()
        if self._waits():
            os.replace(self.folder, self.result)

    def _put_back(self) -> None:
        if self._replaced.exists() and not self.folder.exists():
            os.replace(self._replaced, self.folder)

    def start(self) -> None:
        """Create an empty folder for the result. Files of an unfinished run are removed."""
        self.clear()
        self.partial.mkdir(parents=True)
        (self.partial / MARKER).touch()
        self.result.mkdir()

    def clear(self) -> None:
        """Remove all files of an unfinished run. `check` has made sure that there are no others."""
        if not self.partial.exists():
            return
        self._put_back()
        for folder in (self.result, self._replaced):
            if folder.exists():
                shutil.rmtree(folder)
        for path in sorted(self.partial.iterdir(), key=lambda path: path.name == MARKER):
            path.unlink()  # the marker last, so that the rest is known as ours if a kill comes before
        self.partial.rmdir()

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
        """Sync the result to disk and rename it to OUT. A folder that it replaces stays in place until then.

        Call `clear` once all outputs of the run are published.
        """
        if self._occupied() and force:
            self._check_replaceable()  # again, because somebody might have added files during the run
        if self._file is None:
            write_marker(self.result / MARKER, self.files())
        self.sync()
        shutil.rmtree(self._replaced, ignore_errors=True)
        try:
            self._place(force)
        except BaseException:
            self._put_back()
            raise
        sync_path(self.folder.parent)

    def adopt(self, name: str) -> None:
        """Record that mergecore wrote a file into OUT after publishing it."""
        marker = self.folder / MARKER
        write_marker(marker, {*(read_marker(marker) or ()), name})

    def _place(self, force: bool) -> None:
        """Rename the result to OUT. Without `force`, fail if somebody created OUT in the meantime."""
        if self._file is not None:
            if self.folder.exists() and not force:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.folder))
            write_marker(marker_for(self.folder), [self.folder.name])
            os.replace(self.result / self._file, self.folder)
        elif not (force and self._occupied()):
            os.replace(self.result, self.folder)
        elif not exchange(self.result, self.folder):
            os.replace(self.folder, self._replaced)
            os.replace(self.result, self.folder)


def _lineage(path: Path) -> set[Path]:
    """Return a path and all folders above it, as written and with links resolved."""
    path = Path(os.path.expanduser(path))
    absolute, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    return {absolute, *absolute.parents, real, *real.parents}


def _first_within(folder: Path, places: Mapping[Path, Path]) -> Path | None:
    """Return the path of the first place that is the folder, also through a mount or another spelling of its name."""
    try:
        there = folder.stat()
    except OSError:
        return None
    for place, path in places.items():
        try:
            if os.path.samestat(place.stat(), there):
                return path
        except (OSError, ValueError):  # it does not exist, or is not a valid path
            continue
    return None


def _listed(entries: Sequence[str]) -> str:
    """Return a clause with the first entries of a folder."""
    named = [entry for entry in entries if entry][:NAMED]
    rest = f" and {len(entries) - len(named)} more" if len(entries) > len(named) else ""
    return f" (it contains {', '.join(named)}{rest})" if named else ""


def _sync(folder: Path) -> None:
    """Wait until a folder and its contents are on disk."""
    for path in folder.iterdir():
        if path.is_symlink():
            continue
        if path.is_dir():
            _sync(path)
        else:
            sync_path(path)
    sync_path(folder)
