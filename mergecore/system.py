"""What not every operating system has: reading at a position, locks of files, and limits of a process."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MODULES: dict[str, Any] = {}
for _name in ("fcntl", "msvcrt", "resource"):
    with contextlib.suppress(ImportError):
        _MODULES[_name] = __import__(_name)

_WINDOWS = "msvcrt" in _MODULES

RENAMES_OPEN = not _WINDOWS
"""Whether the system can rename and remove files that are open."""

NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
"""Flag to open a file only if it is not a symbolic link."""

AT_ONCE = getattr(os, "O_NONBLOCK", 0)
"""Flag to open a pipe without waiting."""

_FAR = 2**30
"""Where Windows locks a byte: nobody can read a byte that somebody else has locked, so it must be beyond the end."""

_TURN = threading.Lock()


def open_raw(path: Path | str, flags: int, mode: int = 0o666) -> int:
    """Open a file and return its descriptor. Its bytes are not translated, as Windows would."""
    return os.open(path, flags | getattr(os, "O_BINARY", 0), mode)


def read_at(file: int, out: memoryview, position: int) -> int:
    """Read bytes at a position into memory, from any thread. Return their number, 0 at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(file, [out], position)
    with _positioned(file, position):
        data = os.read(file, len(out))
    out[: len(data)] = data
    return len(data)


def bytes_at(file: int, count: int, position: int) -> bytes:
    """Return up to `count` bytes at a position, from any thread. There are fewer only at the end of the file."""
    out, done = memoryview(bytearray(count)), 0
    while done < count and (more := read_at(file, out[done:], position + done)):
        done += more
    return bytes(out[:done])


def write_at(file: int, data: memoryview | bytes, position: int) -> None:
    """Write all bytes at a position, from any thread."""
    view = memoryview(data)
    while view:
        if hasattr(os, "pwrite"):
            count = os.pwrite(file, view, position)
        else:
            with _positioned(file, position):
                count = os.write(file, view)
        view, position = view[count:], position + count


@contextlib.contextmanager
def _positioned(file: int, position: int) -> Iterator[None]:
    """Move to a position for a moment, while no other thread does."""
    with _TURN:
        before = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, position, os.SEEK_SET)
        try:
            yield
        finally:
            os.lseek(file, before, os.SEEK_SET)


def lock_file(file: int, *, wait: bool) -> None:
    """Lock a file until it is closed.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is False.
        OSError: the file system has no locks.
    """
    if fcntl := _MODULES.get("fcntl"):
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt := _MODULES.get("msvcrt"):
        while True:
            try:
                with _positioned(file, _FAR):
                    msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
                    return
            except PermissionError as error:  # another process holds it
                if not wait:
                    raise BlockingIOError(error.errno, error.strerror) from None
            time.sleep(0.02)
    else:
        raise OSError("this system has no locks")


def sync_path(path: Path) -> None:
    """Make a file, or the names in a folder, safe from a power loss, as far as the system can."""
    try:
        file = os.open(path, os.O_RDWR if _WINDOWS else os.O_RDONLY)
    except PermissionError:
        if _WINDOWS:  # it cannot open folders
            return
        raise
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system does not support it for folders
            raise
    finally:
        os.close(file)


def limit_of(name: str) -> int | None:
    """Return a limit of this process by the name in `resource` without RLIMIT_, or None if there is none."""
    resource = _MODULES.get("resource")
    kind = getattr(resource, f"RLIMIT_{name}", None)
    if resource is None or kind is None:
        return None
    soft: int = resource.getrlimit(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def set_limit(name: str, value: int | None = None) -> None:
    """Set a limit of this process, as far as the system has it and allows it. None is as high as it can be.

    Raises:
        OSError: the system refuses it.
        ValueError: the system refuses it.
    """
    resource = _MODULES.get("resource")
    kind = getattr(resource, f"RLIMIT_{name}", None)
    if resource is None or kind is None:
        return
    hard = resource.getrlimit(kind)[1]
    if value is None:
        resource.setrlimit(kind, (hard, hard))
    else:
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
