"""The journal of an unfinished result: the tensors that are whole and safe on the disk, for the next run to skip."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

SECONDS = 1.0
"""Between two entries: what a kill can cost, while waiting for the disk stays off the merge's own threads."""


@dataclass(frozen=True)
class Record:
    """What a journal says: its head, and the names of the finished tensors."""

    head: Mapping[str, Any]
    done: list[str]


def read_journal(path: Path) -> Record | None:
    """What an earlier run noted, up to the first line that is not whole; None: nothing to go on with."""
    values: list[Any] = []
    try:
        for line in path.read_bytes().split(b"\n")[:-1]:  # a line is whole when it has its end
            values.append(json.loads(line))
    except (OSError, ValueError):
        pass
    if not values or not isinstance(values[0], dict):
        return None
    return Record(values[0], [name for name in values[1:] if isinstance(name, str)])


class Journal:
    """Notes finished tensors in the background; a context manager around the work, which notes the rest at its end.

    Args:
        path: the file; a new one takes the place of one that is there.
        head: what must be the same for another run to go on.
        done: tensors that are finished already.
        settle: makes safe all that was written until now; a tensor is noted only after that.
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
        """Note a tensor soon, all of which has been written."""
        with self._turn:
            self._pending.append(name)

    def check(self) -> None:
        """Raise what keeps the journal from being written: after that nothing would be noted any more."""
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
    """An open journal with these lines; one that was there is whole until it is replaced."""
    fresh = path.with_name(f"{path.name}.new")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _append(file, values)
        os.replace(fresh, path)
    except BaseException:
        os.close(file)
        raise
    return file


def _append(file: int, values: Iterable[Any]) -> None:
    text = memoryview("".join(json.dumps(value) + "\n" for value in values).encode())
    while text:
        text = text[os.write(file, text) :]
    os.fsync(file)
