"""Run the command line in this process with fake plugins, which saves seconds compared to a new interpreter."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import pytest
from mergecore_testing import PluginEnv

from mergecore import cli


class Inside(PluginEnv):
    """A `PluginEnv` whose distributions are visible in this process."""

    def mergecore(self, *arguments: str | Path, cwd: Path | None = None) -> CompletedProcess[str]:
        """Run the command line."""
        out, err, words = io.StringIO(), io.StringIO(), ["mergecore", *map(str, arguments)]
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            stack.enter_context(patch.object(sys, "argv", words))
            stack.enter_context(patch.object(signal, "signal"))
            stack.enter_context(contextlib.chdir(cwd or Path.cwd()))
            status = stack.enter_context(pytest.raises(SystemExit))
            cli.main()
        return CompletedProcess(words, status.value.code, out.getvalue(), err.getvalue())


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    """Fake distributions in this process for one test."""
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("COLUMNS", "200")
    before = set(sys.modules)
    yield Inside(folder)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
