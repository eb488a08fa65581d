"""A tiny model to measure, and a separate results file for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from talkers import write_talker


@pytest.fixture(autouse=True)
def own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep results in the test's folder instead of the user's."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "mergecore" / "results.jsonl"


@pytest.fixture
def talker(tmp_path: Path) -> Path:
    return write_talker(tmp_path / "talker", 0)
