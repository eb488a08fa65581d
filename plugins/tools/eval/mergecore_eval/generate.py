"""Generated answers compared with the expected ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api import Evaluator, InputError, Score, Subject, param
from mergecore_eval.records import read_records
from mergecore_eval.shares import share
from mergecore_eval.tokens import tokenize
from mergecore_eval.writing import written


@dataclass(frozen=True, kw_only=True)
class Generate(Evaluator):
    """Share of prompts that the model answers as expected, using greedy decoding.

    A line is ``{"prompt": ..., "expect": ...}`` with the whole answer (surrounding whitespace is ignored), or
    ``{"prompt": ..., "pattern": ...}`` with a regular expression to search for.
    """

    file: Path = param(doc="A .jsonl file with one prompt per line.")
    tokens: int = param(64, "Maximum number of tokens in an answer.", minimum=1)
    chat: bool = param(False, "Format the prompt as a user message with the tokenizer's chat template.")
    limit: int | None = param(None, "Maximum number of prompts, taken from the start of the file.", minimum=1)

    def check(self) -> None:
        self._prompts()

    def check_subject(self, subject: Subject) -> None:
        for number, ids in enumerate(self._ids(subject), 1):
            if not ids:
                raise InputError(f"{self.file}, prompt {number}: has no tokens in the form that {subject.name} takes")

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        records = self._prompts()
        answers = (written(subject, ids, self.tokens) for ids in self._ids(subject))
        texts = (str(subject.tokenizer.decode(answer, skip_special_tokens=True)) for answer in answers)
        return [share("accuracy", [_is_right(record, text) for record, text in zip(records, texts)])]

    def _ids(self, subject: Subject) -> list[list[int]]:
        """Return the token IDs of each prompt."""
        prompts = [record["prompt"] for record in self._prompts()]
        return tokenize(subject, prompts, "chat" if self.chat else "special").ids

    def _prompts(self) -> list[dict[str, Any]]:
        records = read_records(self.file, {"prompt": str})
        for number, record in enumerate(records, 1):
            where = f"{self.file}, prompt {number}"
            if ("expect" in record) == ("pattern" in record):
                raise InputError(f"{where}: set either 'expect' or 'pattern'")
            try:
                re.compile(str(record.get("pattern", "")))
            except re.error as error:
                raise InputError(f"{where}: 'pattern' is not a valid regular expression: {error}") from None
        return records[: self.limit]


def _is_right(record: dict[str, Any], answer: str) -> bool:
    if "pattern" in record:
        return re.search(str(record["pattern"]), answer) is not None
    return answer.strip() == str(record["expect"]).strip()
