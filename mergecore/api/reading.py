"""Open untrusted files safely: only regular files of a sane size inside the model's folder."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from mergecore.errors import ModelError
from mergecore.system import bytes_at, open_raw

LFS_POINTER = b"version https://git-lfs.github.com/spec/"

MAX_DEPTH = 50
"""Maximum nesting depth of JSON, well below the recursion limit."""


def open_file(path: Path) -> int:
    """Open a regular file for reading and return its descriptor.

    Raises:
        ModelError: if the file is missing, unreadable, empty, a Git LFS pointer, or a folder, pipe, or device.
    """
    try:
        # Checked before opening, because opening a pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelError(f"{path}: is a folder, pipe, or device instead of a file; download the model again")
        file = open_raw(path, os.O_RDONLY)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; download the complete model") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        start = bytes_at(file, len(LFS_POINTER), 0)
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
        ModelError: for the reasons listed in `open_file`, or if the file is too large or not text.
    """
    with os.fdopen(open_file(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise ModelError(f"{path}: is larger than the limit of {limit / 1e6:.0f} MB; download it again")
        try:
            return file.read(limit).decode("utf-8-sig")
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read as text: {error}") from None


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """Return the JSON object in a regular file of at most `limit` bytes.

    Raises:
        ModelError: as for `read_text`, and if the file is not JSON, not an object, or nested too deeply.
    """
    too_deep = ModelError(f"{path}: is nested too deeply (more than {MAX_DEPTH} levels)")
    try:
        value = json.loads(read_text(path, limit))
    except ValueError as error:
        raise ModelError(f"{path}: cannot be parsed as JSON: {error}") from None
    except RecursionError:
        raise too_deep from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must contain a JSON object")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)]
        level = [item for item in level if isinstance(item, (dict, list))]
    if level:
        raise too_deep
    return value


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
