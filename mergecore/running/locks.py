"""Run locks, which keep two runs from writing to the same folder. Stale locks of dead processes are ignored."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergecore.errors import InputError

HOLDER = {"process": 0, "host": "", "since": ""}
"""The JSON contents of a lock file."""


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
        with contextlib.suppress(OSError):
            path.unlink()  # before releasing it, so that nobody else locks a file that is about to be deleted
        os.close(file)


def _acquire(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(path, file)
            if _is_there(path, file):
                mine = HOLDER | {"process": os.getpid(), "host": _host(), "since": time.strftime("%F %T %z")}
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(mine).encode() + b"\n", 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its holder removed it between opening and locking


def _lock(path: Path, file: int) -> None:
    """Take the system lock, which ends with its process. Rely on the file contents if locks are not supported."""
    sure = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{path}: {_holder(file) or 'another run'} is writing there; wait for it or choose another output folder"
        ) from None
    except OSError:
        sure = False  # a file system without locks
    holder = _holder(file)
    if holder and not (sure and f" on {_host()} " in holder):
        raise InputError(f"{path}: {holder} might be writing there; if it is not, delete this file")


def _holder(file: int) -> str:
    """Describe the process that wrote the file. Return an empty string if there is none."""
    text = os.pread(file, 4096, 0)
    if not text:
        return ""
    try:
        said = HOLDER | json.loads(text)
    except (ValueError, TypeError):
        return "another program"
    return f"process {said['process']} on {said['host']} (since {said['since']})"


def _is_there(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _host() -> str:
    return os.uname().nodename
