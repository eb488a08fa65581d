"""Detect whether a file has changed since it was opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mergecore.errors import RunError


class Stamp(NamedTuple):
    """A file's size, modification time, and inode number."""

    size: int
    mtime_ns: int
    inode: int


def stamp_file(path: Path) -> Stamp:
    """Return the current stamp of a file."""
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def check_unchanged(stamps: Mapping[Path, Stamp]) -> None:
    """Raise RunError with the name of the first file that has changed."""
    for path, before in stamps.items():
        try:
            changed = stamp_file(path) != before
        except FileNotFoundError:
            changed = True
        if changed:
            raise RunError(
                f"{path}: was changed while it was being merged; run again when nothing writes to it anymore"
            )
