"""Run mergecore without what Windows lacks: ``python bare_system.py [--windows] COMMAND...``, or ``-c CODE``.

With ``--windows``, ``msvcrt`` locks files, nobody can rename or remove an open file, and folders cannot be opened.
"""

from __future__ import annotations

import fcntl
import os
import subprocess  # noqa: F401  it takes a system with msvcrt for Windows
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

LACKING = [
    *("O_NOFOLLOW", "O_NONBLOCK", "fchmod", "fchown", "fdatasync", "fork", "getloadavg", "getpgid", "getuid"),
    *("killpg", "posix_fadvise", "posix_fallocate", "pread", "preadv", "pwrite", "pwritev", "register_at_fork"),
    *("sched_getaffinity", "sendfile", "set_blocking", "setsid", "sysconf"),
]


def imitate_windows() -> None:
    """Provide ``msvcrt``, and refuse what Windows refuses: to open a folder, and to rename or remove an open file."""
    sys.modules["msvcrt"] = module = ModuleType("msvcrt")
    module.LK_NBLCK = fcntl.LOCK_EX | fcntl.LOCK_NB  # type: ignore[attr-defined]

    def locking(file: int, mode: int, count: int) -> None:
        try:
            fcntl.lockf(file, mode, count, os.lseek(file, 0, os.SEEK_CUR))
        except BlockingIOError as error:
            raise PermissionError(error.errno, "Permission denied") from None

    module.locking = locking  # type: ignore[attr-defined]
    os.O_BINARY = 0  # type: ignore[attr-defined]
    opened = os.open

    def open_file(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if os.path.isdir(path) and sys._getframe(1).f_globals["__name__"].startswith("mergecore"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *rest, **named)

    os.open = open_file
    for name in ("rename", "replace", "unlink", "remove"):
        setattr(os, name, _unless_open(getattr(os, name)))


def _unless_open(function: Any) -> Any:
    """Return a function of `os` that refuses paths that are open in this process, or that have such files in them."""

    def checked(*paths: Any, **named: Any) -> None:
        here = [] if "dir_fd" in named else [os.path.realpath(path) for path in paths]
        for link in Path("/proc/self/fd").iterdir():
            try:
                file = os.readlink(link)
            except OSError:  # the listing itself
                continue
            if any(file == path or file.startswith(f"{path}/") for path in here):
                raise PermissionError(13, "The process cannot access the file because it is being used", file)
        function(*paths, **named)

    return checked


def main() -> None:
    """Take away what the system lacks, then run the command line."""
    words = sys.argv[1:]
    if words[0] == "--windows":
        words = words[1:]
        imitate_windows()
    for name in ("fcntl", "resource"):
        sys.modules[name] = None  # type: ignore[assignment]
    for name in LACKING:
        if hasattr(os, name):
            delattr(os, name)
    if words[0] == "-c":
        exec(words[1])
        return
    from mergecore.cli import main as command

    sys.argv[1:] = words
    command()


if __name__ == "__main__":
    main()
