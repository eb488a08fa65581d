"""The journal of a search, which saves every candidate with its scores before the next one is chosen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergecore.api import InputError, RunError


@dataclass(frozen=True)
class Trial:
    """One candidate: its point, values, losses, and scores, and the error if it failed."""

    point: tuple[float, ...]
    values: Mapping[str, Any]
    losses: tuple[float, ...]
    scores: Mapping[str, Any]
    failed: str = ""


class History:
    """The trials of a search, in order, including those of an interrupted run.

    Args:
        path: The file, created when the first trial is added.
        about: Everything that determines the search.

    Raises:
        InputError: The file belongs to another search.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.trials: list[Trial] = []
        self._about = json.loads(json.dumps(about))
        self._known: list[Trial] = []
        if path.exists():
            self._read()

    @property
    def resumed(self) -> int:
        """Number of trials from an earlier run that this run has not reached yet."""
        return len(self._known) - len(self.trials)

    def _read(self) -> None:
        lines = self.path.read_text("utf-8").split("\n")[:-1]  # an incomplete line has no newline
        try:
            records = [json.loads(line) for line in lines]
        except ValueError:
            raise InputError(f"{self.path}: is damaged; remove it to start over") from None
        if records and records[0] != self._about:
            changed = [key for key in self._about if records[0].get(key) != self._about[key]]
            raise InputError(
                f"{self.path}: belongs to another search ({', '.join(changed)} changed); remove it or use another OUT"
            )
        for record in records[1:]:
            record["point"], record["losses"] = tuple(record["point"]), tuple(record["losses"])
            self._known.append(Trial(**record))

    def known(self, point: Sequence[float]) -> Trial | None:
        """Return the earlier run's trial at the next point, if there is one."""
        place = len(self.trials)
        if place >= len(self._known):
            return None
        if self._known[place].point != tuple(point):
            raise RunError(
                f"{self.path}: the optimizer chose different points than before; remove the file to start over"
            )
        return self._known[place]

    def add(self, trial: Trial) -> None:
        """Add a trial. It is on disk when this returns.

        Raises:
            RunError: It cannot be written.
        """
        if len(self.trials) >= len(self._known):
            try:
                self._append(asdict(trial))
            except OSError as error:
                raise RunError(
                    f"{self.path}: cannot be written: {error.strerror or error}; fix this, and run the same command"
                    " again to resume"
                ) from error
            self._known.append(trial)
        self.trials.append(trial)

    def _append(self, record: Mapping[str, Any]) -> None:
        new = not self.path.exists()
        if not new:
            self._cut()
        with open(self.path, "ab") as file:
            if new or file.tell() == 0:
                file.write(json.dumps(self._about).encode() + b"\n")
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _cut(self) -> None:
        """Remove an incomplete last line."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with open(self.path, "r+b") as file:
                file.truncate(whole)
