"""Run evaluations, and save their results as JSON in a file of all results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from mergecore.api import Evaluation, InputError, RunError, Score, Subject
from mergecore.tooling import lock_file


@dataclass(frozen=True)
class Result:
    """All scores of one model.

    Attributes:
        model: Name of the model.
        scores: Scores by evaluation, in order.
        about: Other facts about the model: method, models, recipe.
        when: Time of the measurement as a Unix timestamp.
    """

    model: str
    scores: Mapping[str, Sequence[Score]]
    about: Mapping[str, Any] = field(default_factory=dict)
    when: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        scores = {name: [asdict(score) for score in found] for name, found in self.scores.items()}
        return {"model": self.model, "when": self.when, "about": dict(self.about), "scores": scores}


def measure(
    subject: Subject,
    evaluations: Sequence[Evaluation],
    about: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda name: None,
) -> Result:
    """Run every evaluation on a model, calling `tell` with its name before it starts.

    Raises:
        InputError: An evaluation cannot be used for the model. The model has not been loaded then.
    """
    for evaluation in evaluations:
        evaluation.evaluator.check_subject(subject)
    scores: dict[str, Sequence[Score]] = {}
    for evaluation in evaluations:
        tell(evaluation.name)
        scores[evaluation.name] = tuple(evaluation.evaluator.evaluate(subject))
    return Result(subject.name, scores, about or {}, time.time())


def results_file() -> Path:
    """Return the default file for results, ``mergecore/results.jsonl`` in the user's data folder.

    Raises:
        InputError: The user has no home folder, as in some containers.
    """
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    if data.startswith("~"):
        raise InputError("you have no home folder to save results in; set XDG_DATA_HOME, or use --results")
    return Path(data) / "mergecore" / "results.jsonl"


def append(result: Result, path: Path) -> None:
    """Append a result as one line, or nothing. Concurrent programs do not interleave their lines.

    Raises:
        RunError: It cannot be saved.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            with suppress(OSError):  # a file system without locks
                lock_file(file.fileno(), wait=True)
            _append(file, json.dumps(result.plain()).encode() + b"\n")
    except OSError as error:
        raise RunError(f"{path}: cannot save results there: {error.strerror or error}") from error


def _append(file: FileIO, line: bytes) -> None:
    """Append a line. An incomplete line that a killed program has left is removed."""
    file.seek(0)
    *whole, last = file.readall().split(b"\n")
    if _is_json(last):  # the newline is missing, because somebody edited the file
        line = b"\n" + line
    else:
        file.truncate(sum(len(item) + 1 for item in whole))
    end, rest = file.seek(0, os.SEEK_END), memoryview(line)
    try:
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file)
    except BaseException:
        file.truncate(end)
        raise


def _is_json(text: str | bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def load(path: Path) -> list[Result]:
    """Return all results in a file, the oldest first. An incomplete last line of a killed program is ignored.

    Raises:
        InputError: The file does not exist, or a line is not a result.
    """
    try:
        *lines, last = path.read_text("utf-8").split("\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no results yet; run: mergecore eval MODEL --with FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    lines += [last] if _is_json(last) else []
    return [_result(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _result(line: str, where: str) -> Result:
    try:
        given = json.loads(line)
        scores = {name: [Score(**score) for score in found] for name, found in given["scores"].items()}
        return Result(str(given["model"]), scores, dict(given["about"]), float(given["when"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{where}: not a result of mergecore ({error}); remove the line") from None
