"""Shares of right answers with their standard error."""

from collections.abc import Sequence

from mergecore.api import Score


def share(name: str, right: Sequence[bool]) -> Score:
    """The share of what is right, and the standard error of such a mean of zeros and ones."""
    count = len(right)
    mean = sum(right) / count
    error = (mean * (1 - mean) / (count - 1)) ** 0.5 if count > 1 else 0.0
    return Score(name, mean, error, count, higher_is_better=True)
