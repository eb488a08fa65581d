"""Scores from any program that prints JSON."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mergecore.api import Evaluator, InputError, RunError, Score, Subject, param


@dataclass(frozen=True, kw_only=True)
class Command(Evaluator):
    """Run a program on the model folder. The last line of its output must be a JSON object of scores.

    The object is like ``{"loss": 2.5}``, or with more details
    ``{"accuracy": {"value": 0.5, "error": 0.1, "count": 20, "higher_is_better": true}}``.
    """

    runs_code: ClassVar[bool] = True

    run: str = param(doc="The program and its arguments. {model} is replaced by the model folder. No shell is used.")
    timeout: float = param(3600.0, "Time limit in seconds.", minimum=0.0)

    def check(self) -> None:
        try:
            words = shlex.split(self.run)
        except ValueError as error:
            raise InputError(f"{self.run!r} cannot be split into arguments: {error}") from None
        if not words or (shutil.which(words[0]) is None and "{model}" not in words[0]):
            raise InputError(f"there is no program {words[0] if words else ''!r}; check the name, or use its full path")
        if not any("{model}" in word for word in words):
            raise InputError("the command does not contain {model}; add it where the path of the model folder belongs")

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        words = [word.replace("{model}", str(subject.folder)) for word in shlex.split(self.run)]
        try:
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=self.timeout, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RunError(f"{words[0]}: failed to run: {error}") from error
        if done.returncode:
            raise RunError(f"{words[0]}: exited with status {done.returncode}")
        last = (done.stdout.strip().splitlines() or [""])[-1]
        try:
            return [_score(name, value) for name, value in json.loads(last).items()]
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise RunError(f"{words[0]}: last line is not a JSON object of scores ({error}): {last[:200]}") from None


def _score(name: str, given: Any) -> Score:
    value = given if isinstance(given, dict) else {"value": given}
    score = Score(
        name,
        float(value["value"]),
        float(value.get("error", 0.0)),
        int(value.get("count", 1)),
        bool(value.get("higher_is_better", False)),
    )
    if not math.isfinite(score.value):
        raise ValueError(f"{name} is {score.value}")
    return score
