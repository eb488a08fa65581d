"""Loss on texts, a token and a byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergecore.api import Evaluator, InputError, Score, Subject, param
from mergecore_eval.records import read_texts


@dataclass(frozen=True, kw_only=True)
class Loss(Evaluator):
    """Mean loss of predicting texts, in nats a token and in nats a byte of UTF-8.

    Each text begins with the start token and is cut into windows of `window` tokens; the first `window - stride` tokens
    of a window are context that the one before has counted. Bytes compare models of different vocabularies, as tokens
    do not; a window has its share of the text's bytes, by tokens.
    """

    files: tuple[Path, ...] = param(doc="Text files, or .jsonl files whose objects have a 'text'.")
    window: int = param(512, "Tokens that the model sees at one time.", minimum=2)
    stride: int | None = param(None, "Tokens from one window to the next; the window's length unless given.", minimum=1)
    limit: int | None = param(None, "Windows at most, taken evenly from all.", minimum=1)

    def check(self) -> None:
        if self.stride is not None and self.stride >= self.window:
            raise InputError(f"stride {self.stride} leaves no context in a window of {self.window}; make it smaller")
        for path in self.files:
            read_texts(path)

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        from mergecore_eval.likelihood import log_likelihoods

        cut = [window for path in self.files for text in read_texts(path) for window in self._windows(subject, text)]
        if self.limit is not None and len(cut) > self.limit:
            cut = [cut[index * len(cut) // self.limit] for index in range(self.limit)]
        rows = log_likelihoods(subject.model, [window.ids for window in cut])
        losses = [
            -float(row[len(row) - window.counted :].double().sum()) for row, window in zip(rows, cut, strict=True)
        ]
        return [
            _ratio("loss", losses, [window.counted for window in cut]),
            _ratio("loss_per_byte", losses, [window.bytes for window in cut]),
        ]

    def _windows(self, subject: Subject, text: str) -> list[_Window]:
        from mergecore_eval.likelihood import encode, start_ids

        tokenizer = subject.tokenizer
        ids = [*start_ids(tokenizer), *encode(tokenizer, text)]
        found, counted = [], 1  # the first token is predicted from nothing
        a_token = len(text.encode()) / max(1, len(ids) - 1)
        while counted < len(ids):
            begin = 0 if counted == 1 else counted - (self.window - self.stride if self.stride else 1)
            stop = min(len(ids), begin + self.window)
            new = stop - counted
            found.append(_Window(ids[begin:stop], new, new * a_token))
            counted = stop
        return found


@dataclass(frozen=True)
class _Window:
    """Token ids, of which the last `counted` are new and spell about so many `bytes`."""

    ids: list[int]
    counted: int
    bytes: float


def _ratio(name: str, totals: Sequence[float], sizes: Sequence[float]) -> Score:
    """Sum of `totals` by sum of `sizes`, with the standard error of that ratio over the windows."""
    whole, count = sum(sizes), len(sizes)
    mean = sum(totals) / whole
    squares = sum((total - mean * size) ** 2 for total, size in zip(totals, sizes, strict=True))
    error = (squares * count / (count - 1)) ** 0.5 / whole if count > 1 else 0.0
    return Score(name, mean, error, count)
