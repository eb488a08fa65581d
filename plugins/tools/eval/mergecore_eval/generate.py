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

    def check_tokenizer(self, tokenizer: Any) -> None:
        for number, record in enumerate(self._prompts(), 1):
            where = f"{self.file}, prompt {number}"
            if self.chat:
                try:
                    text = _as_chat(tokenizer, record["prompt"])
                except Exception as error:  # a template can raise anything
                    cause = str(error).strip().partition("\n")[0]
                    if not getattr(tokenizer, "chat_template", None):
                        cause = "the tokenizer has no chat template; use chat: false"
                    raise InputError(f"{where}: cannot be formatted as a chat message: {cause}") from None
            else:
                text = record["prompt"]
            if not tokenizer(text, add_special_tokens=not self.chat)["input_ids"]:
                raise InputError(f"{where}: has no tokens; write a prompt")

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        right = [_is_right(record, self._answer(subject, record["prompt"])) for record in self._prompts()]
        return [share("accuracy", right)]

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

    def _answer(self, subject: Subject, prompt: str) -> str:
        tokenizer = subject.tokenizer
        if self.chat:
            prompt = _as_chat(tokenizer, prompt)
        ids = tokenizer(prompt, add_special_tokens=not self.chat)["input_ids"]
        return str(tokenizer.decode(written(subject, ids, self.tokens), skip_special_tokens=True))


def _as_chat(tokenizer: Any, prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _is_right(record: dict[str, Any], answer: str) -> bool:
    if "pattern" in record:
        return re.search(str(record["pattern"]), answer) is not None
    return answer.strip() == str(record["expect"]).strip()
