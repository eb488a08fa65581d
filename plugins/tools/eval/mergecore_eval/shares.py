"""Shares of correct answers with their standard errors."""

from collections.abc import Sequence

from mergecore.api import Score


def share(name: str, right: Sequence[bool]) -> Score:
    """Return the share of correct answers, with the standard error of that mean of zeros and ones."""
    count = len(right)
    mean = sum(right) / count
    error = (mean * (1 - mean) / (count - 1)) ** 0.5 if count > 1 else 0.0
    return Score(name, mean, error, count, higher_is_better=True)
