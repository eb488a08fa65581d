"""What tells that a file has changed since a run looked at it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mergecore.errors import RunError


class Stamp(NamedTuple):
    """A file's length, time of last change and number on its disk."""

    size: int
    mtime_ns: int
    inode: int


def stamp(path: Path) -> Stamp:
    """The stamp of a file as it is now."""
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def check_unchanged(stamps: Mapping[Path, Stamp]) -> None:
    """Raise RunError naming the first file that is not what it was."""
    for path, before in stamps.items():
        try:
            changed = stamp(path) != before
        except FileNotFoundError:
            changed = True
        if changed:
            raise RunError(
                f"{path}: was changed while it was being merged; run again when nothing writes to it any more"
            )
