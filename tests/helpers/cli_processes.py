"""Run the command line in processes that start quickly, by forking a process that has already imported torch."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    ["torch", "jsonschema", "rich.progress", "mergecore.cli.app", "mergecore.running.runner"]
)

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
"""Flags that open a file for more than reading."""


@dataclass(frozen=True)
class Run:
    """A running or ended `mergecore ARGUMENTS`."""

    process: Any
    log: Path

    def ended(self, send: int | None = None) -> tuple[int, str]:
        """Optionally send a signal. Return the exit status (negative if killed by a signal) and the output."""
        if send is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, send)
        self.process.join()
        return self.process.exitcode, self.log.read_text("utf-8")

    def reached(self, path: Path) -> bool:
        """Wait until a path exists. Return False if the run ended without it."""
        while not path.exists():
            if not self.process.is_alive():
                return False
            time.sleep(0.001)
        return True


def start(
    home: Path, *arguments: str | Path, plugins: Path | None = None, environment: Mapping[str, str] | None = None
) -> Run:
    """Start the command line.

    Args:
        home: folder for its standard error, its report, and its caches.
        arguments: command line arguments.
        plugins: folder of fake distributions, as created by `PluginEnv`.
        environment: additional environment variables.
    """
    home.mkdir(exist_ok=True)
    process = FORKING.Process(target=_main, args=(home, [str(item) for item in arguments], plugins, environment))
    process.start()
    return Run(process, home / "stderr")


def report(home: Path) -> dict[str, list[str]]:
    """Return the report of a run that was not killed: paths that it ``changed``, and files it left ``open``."""
    return json.loads((home / "report.json").read_text("utf-8"))


def _main(home: Path, arguments: list[str], plugins: Path | None, environment: Mapping[str, str] | None) -> None:
    from mergecore import cli
    from mergecore.running import journal

    log = os.open(home / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 2)
    os.close(log)
    os.environ["XDG_CACHE_HOME"] = str(home / "cache")
    os.environ.update(environment or {})
    sys.dont_write_bytecode = True
    if plugins is not None:
        sys.path.insert(0, str(plugins))
    journal.SECONDS = 0.02
    sys.argv = ["mergecore", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    changed: list[str] = []
    before, watching = _open_files(), [True]
    sys.addaudithook(lambda event, args: changed.extend(file_changes(event, args)) if watching else None)
    try:
        cli.main()
    finally:
        watching.clear()
        left = sorted(_open_files() - before)
        (home / "report.json").write_text(json.dumps({"changed": changed, "open": left}), "utf-8")


def _open_files() -> set[str]:
    """Return every open file descriptor and its target."""
    names = [f"/proc/self/fd/{item}" for item in os.listdir("/proc/self/fd")]
    return {f"{name}: {os.readlink(name)}" for name in names if os.path.lexists(name)}


def file_changes(event: str, args: tuple[Any, ...]) -> list[str]:
    """Return the paths that an audited call changes."""
    if event == "open":
        path, _, flags = args
        return [os.fsdecode(path)] if isinstance(path, (str, bytes, os.PathLike)) and flags & WRITING else []
    if event in ("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "shutil.rmtree"):
        paths = [os.fsdecode(item) for item in args if isinstance(item, (str, bytes, os.PathLike))]
        return [path for path in paths if os.path.isabs(path)]  # others are in a folder that rmtree already reported
    return []
