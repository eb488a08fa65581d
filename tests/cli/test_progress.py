"""The time and rate in the last line of a run are those of the merge."""

from __future__ import annotations

import pytest

from mergecore.cli import progress
from mergecore.cli.progress import Progress


def test_checks_after_publishing_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with Progress(10**8, quiet=True) as shown:
        now[0] += 4
        shown.advance(10**8)
        now[0] += 1
        shown.published()
        now[0] += 20
    assert (shown.seconds, shown.summary()) == (5.0, "100 MB in 5.0 s (merged at 25 MB/s)")
