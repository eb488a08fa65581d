"""Command lines that must be rejected with exit status 2 and one message, without creating or deleting files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest


class Refused(NamedTuple):
    """The arguments of `mergecore`, and text in the error, with | between those of different releases of typer."""

    arguments: str
    words: str


def run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run the command line in this process. Return its exit status, standard output, and standard error."""
    from mergecore import cli

    monkeypatch.setattr("sys.argv", ["mergecore", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capfd.readouterr()
    return int(stop.value.code or 0), out, err


def check_refused(
    case: Refused, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Check that a command line is rejected in a folder and leaves the folder unchanged."""
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    status, out, err = run(case.arguments.split(), monkeypatch, capfd)
    last = next(line for line in reversed(err.splitlines()) if not line.startswith("  "))  # not an excerpt
    assert (status, out) == (2, ""), err
    assert last.startswith("error: ") and "Traceback" not in err, err
    assert any(words in last for words in case.words.split("|")), err
    assert sum(line.startswith("error: ") for line in err.splitlines()) == 1, err
    assert sorted(folder.rglob("*")) == before
