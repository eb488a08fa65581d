"""The figures that a health check measures, and the verdict on a merge, alone or compared with its parents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TOKENS = 512
"""Maximum number of tokens of the built-in text to evaluate. The text has about 400 in most vocabularies."""
ENOUGH_TOKENS = 100
"""Fewer predicted tokens allow no verdict. The standard error of a loss over 100 tokens is 0.1 to 0.3 nats."""
DOUBTFUL_LOSS, BROKEN_LOSS = 0.5, 3.0
"""Nats per token above the worst parent, which is 1.6 and 20 times its perplexity."""
LEARNED = 0.5
"""Share of the loss of random guessing that a model without parents must not exceed. Its perplexity is then at most
the square root of the vocabulary size."""
REPEATED = 0.5
"""Share of an answer that is repetition, above the worst parent's."""
STOPS, SELDOM = 0.5, 0.1
"""Minimum stop probability of a parent that counts, and the fraction of it that a merge must keep."""


@dataclass(frozen=True)
class Figures:
    """Measurements of one model.

    Attributes:
        name: Name shown to the user.
        tokens: Number of tokens of the built-in text that were predicted, without unknown ones.
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
        answer: Text of the answer. None if there was no time for it.
        trouble: Why the figures are incomplete. Empty if they are not.
    """

    name: str
    tokens: int
    loss: float
    loss_per_byte: float
    guess: float
    divergence: float | None
    repeated: float = 0.0
    stop: float | None = None
    ends: bool | None = None
    written: int = 0
    stopped: bool = False
    answer: str | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Verdict:
    """``healthy``, ``doubtful``, ``broken``, or ``inconclusive``, and the reason."""

    word: str
    reason: str

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"


def judge(merge: Figures, parents: Sequence[Figures]) -> Verdict:
    """Return the verdict on a merge whose logits are finite. Anything that was not measured is never healthy."""
    if merge.tokens < ENOUGH_TOKENS:
        return Verdict("inconclusive", f"only {merge.tokens} known tokens of the text were measured, which is too few")
    return _compared(merge, parents) if parents else _alone(merge)


def _compared(merge: Figures, parents: Sequence[Figures]) -> Verdict:
    loss = _losses(merge, parents)
    tokens_a_byte = merge.loss_per_byte / merge.loss if merge.loss else 1.0
    above = (merge.loss_per_byte - max(item.loss_per_byte for item in parents)) / tokens_a_byte
    if above > BROKEN_LOSS:
        return Verdict("broken", loss)
    doubts = [loss] if above > DOUBTFUL_LOSS else []
    most = max(item.repeated for item in parents)
    if merge.repeated - most > REPEATED:
        doubts.append(f"repeats itself in {merge.repeated:.0%} of an answer, its parents in at most {most:.0%}")
    best = max((item.stop for item in parents if item.stop is not None), default=0.0)
    if merge.stop is not None and best >= STOPS and merge.stop < SELDOM * best:
        doubts.append(f"ends a finished answer with probability {merge.stop:.2g}, a parent with {best:.2g}")
    if merge.ends is False and any(item.ends for item in parents):
        doubts.append("generation does not stop at the end-of-turn token of its chat template (see eos_token_id)")
    if doubts:
        return Verdict("doubtful", "; ".join(doubts))
    return Verdict("inconclusive", f"{merge.trouble}; {loss}") if merge.trouble else Verdict("healthy", loss)


def _alone(merge: Figures) -> Verdict:
    """Judge a merge without its parents. Only its loss says much then, because parents can be odd too."""
    loss = f"loss {merge.loss:.2f} per token (random guessing has {merge.guess:.2f})"
    if merge.loss > merge.guess:
        return Verdict("broken", loss)
    odd = [merge.trouble] if merge.trouble else []
    if merge.loss > LEARNED * merge.guess:
        odd.append("its loss is closer to random guessing than to a model that writes text")
    if merge.repeated > REPEATED:
        odd.append(f"repeats itself in {merge.repeated:.0%} of an answer, which some parents do too")
    if merge.stop is not None and merge.stop < SELDOM * STOPS:
        odd.append(f"ends a finished answer with probability {merge.stop:.2g}, which some parents do too")
    if merge.ends is False:
        odd.append("generation does not stop at the end-of-turn token of its chat template (see eos_token_id)")
    return Verdict("inconclusive", "; ".join([*odd, loss])) if odd else Verdict("healthy", loss)


def _losses(merge: Figures, parents: Sequence[Figures]) -> str:
    alike = all(item.divergence is not None for item in parents)
    key, unit = ("loss", "token") if alike else ("loss_per_byte", "byte")
    found = sorted(f"{getattr(item, key):.2f}" for item in parents)
    span = found[0] if found[0] == found[-1] else f"{found[0]} to {found[-1]}"
    have = "parents have" if len(parents) > 1 else "parent has"
    return f"loss {getattr(merge, key):.2f} per {unit}, its {have} {span}"


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
        "" if item.answer is None else f"{item.repeated:.0%}",
        "" if item.stop is None else f"{item.stop:.2g}",
        "-" if item.answer is None else f"{item.written} tokens{'' if item.stopped else ', cut'}",
    )
