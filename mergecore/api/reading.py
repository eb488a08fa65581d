"""Open untrusted files safely: only regular files of a sane size inside the model's folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mergecore.errors import ModelError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def open_file(path: Path) -> int:
    """Open a regular file for reading and return its descriptor.

    Raises:
        ModelError: if the file is missing, unreadable, empty, a Git LFS pointer, or a folder, pipe, or device.
    """
    try:
        # Checked before opening, because opening a pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelError(f"{path}: is a folder, pipe, or device instead of a file; download the model again")
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; download the complete model") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        start = os.pread(file, len(LFS_POINTER), 0)
        if not start:
            raise ModelError(f"{path}: is empty; download it again")
        if start == LFS_POINTER:
            raise ModelError(f"{path}: is a Git LFS pointer instead of the file; download it with: git lfs pull")
    except BaseException as error:
        os.close(file)
        if isinstance(error, OSError):
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
        raise
    return file


def read_text(path: Path, limit: int) -> str:
    """Return the UTF-8 text of a regular file of at most `limit` bytes.

    Raises:
        ModelError: as for `open_file`, and if the file is too large or not text.
    """
    with os.fdopen(open_file(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise ModelError(f"{path}: is larger than the limit of {limit / 1e6:.0f} MB; download it again")
        try:
            return file.read(limit).decode("utf-8-sig")
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read as text: {error}") from None


def lies_within(folder: Path, path: Path) -> bool:
    """Return True if a model's file, with links resolved, is in its folder or, for a Hub snapshot, in the cache."""
    folder = Path(os.path.realpath(folder))
    repository = folder.parent.parent
    roots = [folder]
    if folder.parent.name == "snapshots" and repository.name.startswith("models--"):
        # The second folder is shared by all repositories in the cache.
        roots += [repository / "blobs", repository.parent / "blobs"]
    target = Path(os.path.realpath(path))
    return any(target.is_relative_to(root) for root in roots)
