"""Multiple-choice questions scored by likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mergecore.api import Evaluator, InputError, Score, Subject, param
from mergecore_eval.records import read_records
from mergecore_eval.shares import share
from mergecore_eval.tokens import tokenize

KEYS = {"prompt": str, "choices": list, "answer": int}


@dataclass(frozen=True, kw_only=True)
class Choice(Evaluator):
    """Share of questions whose correct choice has the highest likelihood, in total and per byte.

    A line is ``{"prompt": ..., "choices": [...], "answer": 0}``. Each choice is appended directly to the prompt, so
    start it with a space if the prompt does not end with one.
    """

    file: Path = param(doc="A .jsonl file with one question per line.")
    limit: int | None = param(None, "Maximum number of questions, taken from the start of the file.", minimum=1)

    def check(self) -> None:
        self._questions()

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        right, right_by_bytes, questions = [], [], self._questions()
        texts = [question["prompt"] + choice for question in questions for choice in ("", *question["choices"])]
        tokens = tokenize(subject, texts)
        ids = iter(tokens.ids)
        for question in questions:
            sums = _likelihoods(subject, tokens.start, next(ids), list(islice(ids, len(question["choices"]))))
            by_bytes = [total / len(choice.encode()) for total, choice in zip(sums, question["choices"], strict=True)]
            right.append(sums.index(max(sums)) == question["answer"])
            right_by_bytes.append(by_bytes.index(max(by_bytes)) == question["answer"])
        return [share("accuracy", right), share("accuracy_per_byte", right_by_bytes)]

    def _questions(self) -> list[dict[str, Any]]:
        questions = read_records(self.file, KEYS)
        for number, question in enumerate(questions, 1):
            choices = question["choices"]
            if len(choices) < 2 or not all(isinstance(choice, str) and choice for choice in choices):
                raise InputError(f"{self.file}, question {number}: 'choices' must be two or more nonempty strings")
            if not 0 <= question["answer"] < len(choices):
                raise InputError(f"{self.file}, question {number}: 'answer' must be 0 to {len(choices) - 1}")
        return questions[: self.limit]


def _likelihoods(
    subject: Subject, start: Sequence[int], begun: Sequence[int], whole: Sequence[Sequence[int]]
) -> list[float]:
    """Return the log-likelihood of each choice, given the IDs of the prompt and of the prompt with each choice."""
    from mergecore_eval.likelihood import log_likelihoods, shared

    rows = log_likelihoods(subject.model, [[*start, *ids] for ids in whole])
    sums = []
    for ids, row in zip(whole, rows, strict=True):
        sums.append(float(row[max(0, shared(begun, ids) + len(start) - 1) :].double().sum()))
    return sums
