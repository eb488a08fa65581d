"""Run locks, which keep two runs from writing to the same folder. Stale locks of dead processes are ignored."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergecore.errors import InputError
from mergecore.system import NO_LINKS, RENAMES_OPEN, bytes_at, lock_file, open_raw, write_at

HOLDER = {"process": 0, "host": "", "since": ""}
"""The JSON contents of a lock file."""

SIZE = 512
"""Size of a lock file in bytes, always the same so that one write replaces all of it."""

PATIENCE = 1.0
"""Seconds after which an empty file is not one that another run has just created."""


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a lock file, and remove it on exit.

    Raises:
        InputError: if another process holds it or might hold it on another machine, or if it cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _acquire(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; choose another output folder") from error
    try:
        yield
    finally:
        if not RENAMES_OPEN:  # and nobody can remove a file that another run has locked
            os.close(file)
        with contextlib.suppress(OSError):
            path.unlink()  # before releasing it, so that nobody else locks a file that is about to be deleted
        if RENAMES_OPEN:
            os.close(file)


def _acquire(path: Path) -> int:
    while True:
        file, new = _open(path)
        try:
            _lock(path, file, new)
            if _is_there(path, file):
                write_at(file, _mine(), 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its holder removed it between opening and locking


def _open(path: Path) -> tuple[int, bool]:
    """Open a lock file, and return True if it is new. Never change a file that is already there."""
    started = time.monotonic()
    while True:
        with contextlib.suppress(FileExistsError):
            return _create(path), True
        with contextlib.suppress(FileNotFoundError):  # its holder has just removed it
            file = open_raw(path, os.O_RDWR | NO_LINKS)
            if os.fstat(file).st_size or time.monotonic() - started > PATIENCE:
                return file, False
            os.close(file)
        time.sleep(0.01)


def _create(path: Path) -> int:
    file = open_raw(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINKS)
    try:
        write_at(file, _mine(), 0)
    except BaseException:  # the disk is full, for example
        path.unlink()
        os.close(file)
        raise
    return file


def _mine() -> bytes:
    mine = HOLDER | {"process": os.getpid(), "host": _host(), "since": time.strftime("%F %T %z")}
    return json.dumps(mine).encode().ljust(SIZE - 1) + b"\n"


def _lock(path: Path, file: int, new: bool) -> None:
    """Take the system lock, which the process releases on exit. Without lock support, rely on the file contents."""
    sure = True
    try:
        lock_file(file, wait=False)
    except BlockingIOError:
        raise InputError(
            f"{path}: {_holder(file) or 'another run'} is writing there; wait for it or choose another output folder"
        ) from None
    except OSError:
        sure = False  # a file system without locks
    if new or not os.fstat(file).st_size:  # a run was killed before it wrote the file
        return
    if (holder := _holder(file)) is None:
        raise InputError(f"{path}: is not a lock file of mergecore; rename it, or choose another output folder")
    if not (sure and f" on {_host()} " in holder):
        raise InputError(f"{path}: {holder} might be writing there; if it is not, delete this file")


def _holder(file: int) -> str | None:
    """Describe the process that wrote the file. Return None if it is not a lock file of mergecore."""
    try:
        said = json.loads(bytes_at(file, SIZE, 0))
        return f"process {said['process']} on {said['host']} (since {said['since']})"
    except (ValueError, TypeError, KeyError):
        return None


def _is_there(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _host() -> str:
    return platform.node()
