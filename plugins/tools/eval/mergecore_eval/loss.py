"""Loss on texts, per token and per byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergecore.api import Evaluator, InputError, Score, Subject, param
from mergecore_eval.records import read_texts
from mergecore_eval.tokens import tokenize


@dataclass(frozen=True, kw_only=True)
class Loss(Evaluator):
    """Mean loss on texts, in nats per token and in nats per byte of UTF-8.

    Each text starts with the BOS token and is cut into windows of `window` tokens. The first `window - stride` tokens
    of a window are context that the previous window has already counted. Use the loss per byte to compare models with
    different vocabularies. The bytes of a text are split among its windows in proportion to their tokens.
    """

    files: tuple[Path, ...] = param(doc="Text files, or .jsonl files whose objects have a 'text' key.")
    window: int = param(512, "Number of tokens that the model sees at once.", minimum=2)
    stride: int | None = param(None, "Tokens from one window to the next. By default, the window length.", minimum=1)
    limit: int | None = param(None, "Maximum number of windows, spread evenly over all texts.", minimum=1)

    def check(self) -> None:
        if self.stride is not None and self.stride >= self.window:
            raise InputError(f"stride {self.stride} leaves no context in a window of {self.window}; make it smaller")
        for path in self.files:
            read_texts(path)

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        from mergecore_eval.likelihood import log_likelihoods

        texts = [text for path in self.files for text in read_texts(path)]
        tokens = tokenize(subject, texts)
        cut = [window for text, ids in zip(texts, tokens.ids) for window in self._windows(text, [*tokens.start, *ids])]
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

    def _windows(self, text: str, ids: Sequence[int]) -> list[_Window]:
        found, counted = [], 1  # the first token has no context to be predicted from
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
    """Token ids of a window. The last `counted` are new and make up about `bytes` bytes of text."""

    ids: Sequence[int]
    counted: int
    bytes: float


def _ratio(name: str, totals: Sequence[float], sizes: Sequence[float]) -> Score:
    """Return sum(totals) / sum(sizes), with the standard error of that ratio over the windows."""
    whole, count = sum(sizes), len(sizes)
    mean = sum(totals) / whole
    squares = sum((total - mean * size) ** 2 for total, size in zip(totals, sizes, strict=True))
    error = (squares * count / (count - 1)) ** 0.5 / whole if count > 1 else 0.0
    return Score(name, mean, error, count)
