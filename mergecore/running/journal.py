"""The journal of an unfinished result. It lists the tensors that are safe on disk, so that the next run skips them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mergecore.system import open_raw

SECONDS = 1.0
"""Seconds between entries, which is the most work that a kill can lose. A separate thread waits for the disk."""


@dataclass(frozen=True)
class Record:
    """The contents of a journal: its head, and the names of the finished tensors."""

    head: Mapping[str, Any]
    done: list[str]


def read_journal(path: Path) -> Record | None:
    """Read the journal of an earlier run up to the first incomplete line. Return None if there is nothing to resume."""
    values: list[Any] = []
    try:
        for line in path.read_bytes().split(b"\n")[:-1]:  # a line is complete if it ends with a newline
            values.append(json.loads(line))
    except (OSError, ValueError):
        pass
    if not values or not isinstance(values[0], dict):
        return None
    return Record(values[0], [name for name in values[1:] if isinstance(name, str)])


class Journal:
    """Records finished tensors in the background. Use it as a context manager, which records the rest on exit.

    Args:
        path: the journal file. An existing file is replaced.
        head: data that must be the same for another run to resume.
        done: tensors that are already finished.
        settle: syncs all data written so far. A tensor is recorded only after that.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], done: Iterable[str], settle: Callable[[], None]) -> None:
        self._settle = settle
        self._pending: list[str] = []
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._file = _begin(path, [head, *done])
        self._thread = threading.Thread(target=self._keep, name="journal", daemon=True)

    def __enter__(self) -> Journal:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self.check()
            self._note()
        except Exception:
            if error is None:
                raise
        finally:
            os.close(self._file)

    def add(self, name: str) -> None:
        """Queue a completely written tensor to be recorded."""
        with self._turn:
            self._pending.append(name)

    def check(self) -> None:
        """Raise the error that stopped the background thread, if any, because nothing is recorded after it."""
        if self._error is not None:
            raise self._error

    def _keep(self) -> None:
        try:
            while not self._ended.wait(SECONDS):
                self._note()
        except BaseException as error:
            self._error = error

    def _note(self) -> None:
        with self._turn:
            names, self._pending = self._pending, []
        if names:
            self._settle()
            _append(self._file, names)


def _begin(path: Path, values: Iterable[Any]) -> int:
    """Create a journal with these lines and return its descriptor. An existing journal is replaced atomically."""
    fresh = path.with_name(f"{path.name}.new")
    file = open_raw(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        _append(file, values)
    finally:
        os.close(file)  # Windows does not rename open files
    os.replace(fresh, path)
    return open_raw(path, os.O_WRONLY | os.O_APPEND)


def _append(file: int, values: Iterable[Any]) -> None:
    text = memoryview("".join(json.dumps(value) + "\n" for value in values).encode())
    while text:
        text = text[os.write(file, text) :]
    os.fsync(file)
