"""Checks for optimizers: points are in the unit cube and depend only on seed and losses."""

from __future__ import annotations

from collections.abc import Sequence

from mergecore_testing.conformance.compare import expect
from mergecore_testing.conformance.subjects import Subject

ROUNDS = 3


def check_asks_for_points_of_the_cube(subject: Subject) -> None:
    """Every point has a number from 0 to 1 for each dimension, even if there is only one dimension."""
    for dimensions in (1, 2, 5):
        for points in _asked(subject, dimensions, 0):
            right = points and all(len(point) == dimensions and all(0 <= x <= 1 for x in point) for point in points)
            expect(right, f"{subject}: proposes points outside the cube with {dimensions} dimension(s)")


def check_seeds_decide_the_points(subject: Subject) -> None:
    """The same seed and losses give the same points, because a resumed search replays all of them."""
    expect(_asked(subject, 3, 1) == _asked(subject, 3, 1), f"{subject}: the same seed gives different points")


def check_goes_on_after_failures(subject: Subject) -> None:
    """A search continues even if some or all losses are infinite."""
    for failing in (1, 10**6):
        search = subject.loaded(2, 0, 0)
        for _ in range(ROUNDS):
            points = search.ask()
            search.tell(points, [[float("inf") if n < failing else sum(point)] for n, point in enumerate(points)])


def _asked(subject: Subject, dimensions: int, seed: int) -> list[Sequence[Sequence[float]]]:
    search = subject.loaded(dimensions, seed, 0)
    asked: list[Sequence[Sequence[float]]] = []
    for _ in range(ROUNDS):
        asked.append([tuple(point) for point in search.ask()])
        search.tell(asked[-1], [[sum(point), max(point)] for point in asked[-1]])
    return asked
