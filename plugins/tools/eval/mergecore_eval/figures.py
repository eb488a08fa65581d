"""What a health check measures of a model, and the verdict on a merge beside its parents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOKENS = 512
"""Tokens of the built-in text that are looked at, at most; it has some 400 in most vocabularies."""
DOUBTFUL_LOSS, BROKEN_LOSS = 0.5, 3.0
"""Nats a token above the worst parent: 1.6 and 20 times its perplexity."""
REPEATED = 0.5
"""Share of what is written that repeats, above the worst parent's."""
STOPS, SELDOM = 0.5, 0.1
"""A parent that stops with this probability at least, and the part of its probability that a merge must keep."""


@dataclass(frozen=True)
class Figures:
    """What was measured of a model.

    Attributes:
        name: what people call it.
        loss: mean loss over the built-in text, nats a token.
        loss_per_byte: the same in nats a byte of UTF-8, which models of different vocabularies can be compared by.
        guess: the loss of guessing, the logarithm of how many tokens there are.
        divergence: KL(model || merge) of the next token's probabilities, mean over the text in nats a token; None: for
            the merge itself, and where the vocabularies differ.
        repeated: share of the groups of four tokens of an answer that were there before.
        stop: probability of the token that ends a turn after a finished answer; None: no chat template has one.
        ends: whether generation ends at that token.
        written: tokens of the answer.
        stopped: whether it ended by itself.
        answer: its text.
    """

    name: str
    loss: float
    loss_per_byte: float
    guess: float
    divergence: float | None
    repeated: float
    stop: float | None
    ends: bool | None
    written: int
    stopped: bool
    answer: str


@dataclass(frozen=True)
class Verdict:
    """``healthy``, ``doubtful`` or ``broken``, and why."""

    word: str
    reason: str

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"


def judge(merge: Figures, parents: Sequence[Figures]) -> Verdict:
    """The verdict on a merge whose logits are finite."""
    loss = _losses(merge, parents)
    tokens_a_byte = merge.loss_per_byte / merge.loss
    above = (merge.loss_per_byte - max((item.loss_per_byte for item in parents), default=0.0)) / tokens_a_byte
    if above > (BROKEN_LOSS if parents else merge.guess):
        return Verdict("broken", loss)
    doubts = [loss] if parents and above > DOUBTFUL_LOSS else []
    most = max((item.repeated for item in parents), default=0.0)
    if merge.repeated - most > REPEATED:
        doubts.append(f"repeats itself in {merge.repeated:.0%} of an answer, its parents in {most:.0%} at most")
    best = max((item.stop for item in parents if item.stop is not None), default=0.0)
    if merge.stop is not None and best >= STOPS and merge.stop < SELDOM * best:
        doubts.append(f"ends a finished answer with a probability of {merge.stop:.2g}, a parent of {best:.2g}")
    if merge.ends is False and any(item.ends for item in parents):
        doubts.append("the token that ends a turn of its chat template does not end generation (see eos_token_id)")
    return Verdict("doubtful", "; ".join(doubts)) if doubts else Verdict("healthy", loss)


def _losses(merge: Figures, parents: Sequence[Figures]) -> str:
    alike = all(item.divergence is not None for item in parents)
    key, unit = ("loss", "token") if alike else ("loss_per_byte", "byte")
    own = f"loss {getattr(merge, key):.2f} a {unit}"
    if not parents:
        return f"{own}, guessing has {merge.guess:.2f}; no parent was measured"
    found = sorted(f"{getattr(item, key):.2f}" for item in parents)
    span = found[0] if found[0] == found[-1] else f"{found[0]} to {found[-1]}"
    return f"{own}, its {'parents have' if len(parents) > 1 else 'parent has'} {span}"


HEADS = ("", "loss a token", "a byte", "divergence", "repeated", "stops", "answer")


def table(models: Sequence[Figures]) -> list[str]:
    """The figures as lines of text, models by rows."""
    rows = [HEADS, *(_cells(item) for item in models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _cells(item: Figures) -> tuple[str, ...]:
    return (
        item.name,
        f"{item.loss:.3f}",
        f"{item.loss_per_byte:.3f}",
        "" if item.divergence is None else f"{item.divergence:.4f}",
        f"{item.repeated:.0%}",
        "" if item.stop is None else f"{item.stop:.2g}",
        f"{item.written} tokens{'' if item.stopped else ', cut'}",
    )
