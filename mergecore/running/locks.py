"""A lock file, so that two runs never write to one folder; the lock of a process that has died holds nobody up."""

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
"""What a lock file says, as JSON."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which is removed at the end.

    Raises:
        InputError: another process holds it, or may hold it on another machine, or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _acquire(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; give an output folder elsewhere") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before it is let go: nobody else gets a lock on a file that is about to go
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
        os.close(file)  # its holder removed it between our opening and locking it


def _lock(path: Path, file: int) -> None:
    """Take the system's lock, which ends with its process; what the file says counts where that cannot be known."""
    sure = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{path}: {_holder(file) or 'another run'} writes there; wait for it, or give another output folder"
        ) from None
    except OSError:
        sure = False  # a file system without locks
    holder = _holder(file)
    if holder and not (sure and f" on {_host()} " in holder):
        raise InputError(f"{path}: {holder} may be writing there; if it is not, delete this file")


def _holder(file: int) -> str:
    """Whoever wrote the file, in words; empty: nobody."""
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
