"""Files that share few descriptors: the least recently used ones are closed, and opened again when they are needed."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from mergecore.errors import RunError
from mergecore.system import AT_ONCE, limit_of, open_raw

MOST = 512
"""Maximum number of files to keep open if the system allows more."""


class OpenFile:
    """A file whose descriptor can be closed while nobody uses it. ``with file as descriptor`` keeps it open.

    Can be used from several threads at once.

    Args:
        path: the path, to open the file again.
        descriptor: the open file.
        written: whether it is open for writing as well, so that its size and time can change.

    Raises:
        RunError: on use, if the file at this path is no longer the same.
    """

    def __init__(self, path: Path, descriptor: int, written: bool = False) -> None:
        self._path, self._absolute, self._written = path, path.absolute(), written
        self._descriptor: int | None = descriptor
        self._identity = self._identify(descriptor)
        self._users, self._ended = 0, False
        with _TURN:
            _OPEN[self] = None
            _close_idle()

    def __enter__(self) -> int:
        with _TURN:
            if self._ended:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            known = self._descriptor is not None
            if self._descriptor is None:
                self._descriptor = self._opened_again()
            _OPEN.pop(self, None)
            _OPEN[self] = None  # now the most recently used one
            self._users += 1
            if not known:
                _close_idle()
            return self._descriptor

    def __exit__(self, *_: object) -> None:
        with _TURN:
            self._users -= 1
            if self._ended and not self._users:
                self._close()

    def close(self) -> None:
        """Close the file as soon as nobody uses it."""
        with _TURN:
            self._ended = True
            if not self._users:
                self._close()

    def _close(self) -> None:
        _OPEN.pop(self, None)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened_again(self) -> int:
        # Not blocking, because the file could have been replaced by a pipe.
        flags = (os.O_RDWR if self._written else os.O_RDONLY) | AT_ONCE
        doing = "written" if self._written else "merged"
        try:
            descriptor = open_raw(self._absolute, flags)
        except FileNotFoundError:
            raise RunError(f"{self._path}: was removed while it was being {doing}; run again") from None
        except OSError as error:
            raise RunError(f"{self._path}: cannot be opened again: {error.strerror}; run again") from None
        if self._identify(descriptor) != self._identity:
            os.close(descriptor)
            again = "run again when nothing writes to it anymore"
            raise RunError(f"{self._path}: was changed while it was being {doing}; {again}")
        return descriptor

    def _identify(self, descriptor: int) -> tuple[int, ...]:
        status = os.fstat(descriptor)
        place = (status.st_dev, status.st_ino)
        return place if self._written else (*place, status.st_size, status.st_mtime_ns)


_OPEN: dict[OpenFile, None] = {}
"""The open files. The least recently used one comes first."""

_TURN = threading.Lock()


def _close_idle() -> None:
    """Close the least recently used files that nobody uses, down to half of the process's limit."""
    soft = limit_of("NOFILE")
    excess = len(_OPEN) - (min(MOST, soft // 2) if soft else MOST)
    if excess > 0:
        for file in [file for file in _OPEN if not file._users][:excess]:
            file._close()


# A fork must not happen while another thread holds the lock, because that thread does not exist in the new process.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_TURN.acquire, after_in_parent=_TURN.release, after_in_child=_TURN.release)
