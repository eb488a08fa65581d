"""Write a single file atomically, such as a page or a recipe."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from mergecore.errors import InputError, RunError
from mergecore.system import NO_LINKS, RENAMES_OPEN, lock_file, open_raw


def write_whole(path: Path, content: str | bytes, *, new: bool = False) -> None:
    """Write a file, so that its name has either the old or the new content at any time. A link to a file stays one.

    Args:
        path: the file.
        content: its content. Text is written as UTF-8.
        new: whether to refuse to replace a file.

    Raises:
        InputError: if it is a folder, its folder does not exist, or `new` is set and the file exists.
        RunError: if the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InputError(f"{path}: is a folder; use the name of a file")
    draft = target.with_name(f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]}.partial")
    data = memoryview(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    try:
        with open(_open(draft), "wb", buffering=0) as file:
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
                if not RENAMES_OPEN:
                    file.close()
                _place(draft, target, new)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
    except FileExistsError:
        raise InputError(f"{path}: already exists; use another name") from None
    except FileNotFoundError:
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist; create it first") from None
    except OSError as error:
        raise RunError(f"{path}: cannot write the file: {error.strerror or error}") from None


def _open(draft: Path) -> int:
    """Open an empty draft. Wait for other processes that write it, and reuse the one of a killed process."""
    while True:
        file = open_raw(draft, os.O_RDWR | os.O_CREAT | NO_LINKS)
        try:
            with suppress(OSError):  # a file system without locks
                lock_file(file, wait=True)
            with suppress(FileNotFoundError):  # the other process has renamed it
                if os.path.samestat(os.fstat(file), draft.stat()):
                    os.ftruncate(file, 0)
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _place(draft: Path, target: Path, new: bool) -> None:
    """Rename the draft. With `new`, fail if the target exists."""
    if new:
        try:
            os.link(draft, target)  # unlike a rename, this never replaces a file
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if os.path.lexists(target):
                raise FileExistsError from None
        else:
            os.unlink(draft)
            return
    os.replace(draft, target)
