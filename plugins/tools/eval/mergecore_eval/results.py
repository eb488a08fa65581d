"""What evaluations found: run, kept as JSON, appended to a file of all results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mergecore.api import Evaluation, InputError, RunError, Score, Subject


@dataclass(frozen=True)
class Result:
    """All scores of one model.

    Attributes:
        model: what it is called.
        scores: by evaluation, in order.
        about: what else is known of it: method, models, recipe.
        when: seconds since 1970.
    """

    model: str
    scores: Mapping[str, Sequence[Score]]
    about: Mapping[str, Any] = field(default_factory=dict)
    when: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        scores = {name: [asdict(score) for score in found] for name, found in self.scores.items()}
        return {"model": self.model, "when": self.when, "about": dict(self.about), "scores": scores}


def measure(
    subject: Subject,
    evaluations: Sequence[Evaluation],
    about: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda name: None,
) -> Result:
    """Run every evaluation on a model; `tell` hears the name of each before it begins."""
    scores: dict[str, Sequence[Score]] = {}
    for evaluation in evaluations:
        tell(evaluation.name)
        scores[evaluation.name] = tuple(evaluation.evaluator.evaluate(subject))
    return Result(subject.name, scores, about or {}, time.time())


def results_file() -> Path:
    """Where results are collected unless another file is named: ``mergecore/results.jsonl`` of the user's data."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "mergecore" / "results.jsonl"


def append(result: Result, path: Path) -> None:
    """Add a result as one line; lines of several programs at once stay whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            file.write(json.dumps(result.plain()).encode() + b"\n")
    except OSError as error:
        raise RunError(f"{path}: results cannot be kept there: {error.strerror or error}") from error


def load(path: Path) -> list[Result]:
    """All results of a file, the oldest first.

    Raises:
        InputError: there is no such file, or a line is no result.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: there are no results yet; type: mergecore eval MODEL --with FILE") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return [_result(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _result(line: str, where: str) -> Result:
    try:
        given = json.loads(line)
        scores = {name: [Score(**score) for score in found] for name, found in given["scores"].items()}
        return Result(str(given["model"]), scores, dict(given["about"]), float(given["when"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{where}: is no result of mergecore ({error}); remove the line") from None
