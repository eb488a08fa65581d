"""The figures that a health check measures, and the verdict on a merge compared with its parents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOKENS = 512
"""Maximum number of tokens of the built-in text to evaluate. The text has about 400 in most vocabularies."""
DOUBTFUL_LOSS, BROKEN_LOSS = 0.5, 3.0
"""Nats per token above the worst parent, which is 1.6 and 20 times its perplexity."""
REPEATED = 0.5
"""Share of an answer that is repetition, above the worst parent's."""
STOPS, SELDOM = 0.5, 0.1
"""Minimum stop probability of a parent that counts, and the fraction of it that a merge must keep."""


@dataclass(frozen=True)
class Figures:
    """Measurements of one model.

    Attributes:
        name: Name shown to the user.
        loss: Mean loss over the built-in text, in nats per token.
        loss_per_byte: The same in nats per byte of UTF-8, which is comparable across vocabularies.
        guess: Loss of random guessing, which is the logarithm of the vocabulary size.
        divergence: KL(model || merge) of the next-token probabilities, averaged over the text, in nats per token. None
            for the merge, and if the vocabularies differ.
        repeated: Share of 4-grams of tokens in an answer that repeat an earlier one.
        stop: Probability of the end-of-turn token after a finished answer. None if the chat template has none.
        ends: Whether generation ends at that token.
        written: Number of tokens in the answer.
        stopped: Whether the answer ended before the limit.
        answer: Text of the answer.
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
    """``healthy``, ``doubtful``, or ``broken``, and the reason."""

    word: str
    reason: str

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"


def judge(merge: Figures, parents: Sequence[Figures]) -> Verdict:
    """Return the verdict on a merge whose logits are finite."""
    loss = _losses(merge, parents)
    tokens_a_byte = merge.loss_per_byte / merge.loss
    above = (merge.loss_per_byte - max((item.loss_per_byte for item in parents), default=0.0)) / tokens_a_byte
    if above > (BROKEN_LOSS if parents else merge.guess):
        return Verdict("broken", loss)
    doubts = [loss] if parents and above > DOUBTFUL_LOSS else []
    most = max((item.repeated for item in parents), default=0.0)
    if merge.repeated - most > REPEATED:
        doubts.append(f"repeats itself in {merge.repeated:.0%} of an answer, its parents in at most {most:.0%}")
    best = max((item.stop for item in parents if item.stop is not None), default=0.0)
    if merge.stop is not None and best >= STOPS and merge.stop < SELDOM * best:
        doubts.append(f"ends a finished answer with probability {merge.stop:.2g}, a parent with {best:.2g}")
    if merge.ends is False and any(item.ends for item in parents):
        doubts.append("generation does not stop at the end-of-turn token of its chat template (see eos_token_id)")
    return Verdict("doubtful", "; ".join(doubts)) if doubts else Verdict("healthy", loss)


def _losses(merge: Figures, parents: Sequence[Figures]) -> str:
    alike = all(item.divergence is not None for item in parents)
    key, unit = ("loss", "token") if alike else ("loss_per_byte", "byte")
    own = f"loss {getattr(merge, key):.2f} per {unit}"
    if not parents:
        return f"{own} (random guessing has {merge.guess:.2f}); no parents were measured"
    found = sorted(f"{getattr(item, key):.2f}" for item in parents)
    span = found[0] if found[0] == found[-1] else f"{found[0]} to {found[-1]}"
    return f"{own}, its {'parents have' if len(parents) > 1 else 'parent has'} {span}"


HEADS = ("", "loss per token", "loss per byte", "divergence", "repeated", "stops", "answer")


def table(models: Sequence[Figures]) -> list[str]:
    """Format the figures as lines of text, one model per row."""
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
