"""Compass search passes the checks for optimizers and finds a minimum."""

import pytest
from acme_compass import Compass
from mergecore_testing.conformance import conformance

test_conformance = conformance("compass", "optimizers")


def test_it_finds_the_lowest_point():
    search = Compass(2, seed=0)
    for _ in range(30):
        points = search.ask()
        search.tell(points, [((x - 0.3) ** 2 + abs(y - 1.0),) for x, y in points])
    assert search.ask()[0] == pytest.approx([0.3, 1.0], abs=0.001)
