"""Run a command line on a small disk in memory, and interrupt it or fill its disk at a chosen moment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli_processes import FORKING, file_changes

MOUNT_SIZE = 2**28
PATIENCE = 120.0
"""Seconds after which a command counts as hanging."""


def preload(evaluating: bool) -> None:
    """Import what commands need in the process that is forked, which saves seconds for each."""
    models = ["transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto"]
    evaluation = ["mergecore_search.commands", "mergecore_search.trials", *models]
    FORKING.set_forkserver_preload(["mergecore.tooling", "rich.progress", *(evaluation if evaluating else [])])


@dataclass(frozen=True)
class Interruption:
    """What interrupts a command, and when.

    Attributes:
        kind: "SIGKILL", "SIGTERM", or "full disk".
        step: number of the change to the disk that it precedes, or 0.
        calls: number of function calls after that, to hit what is between two such changes.
        after: seconds since the first visible change, if there is no step.
        space: free bytes on the disk from the start, or -1 for plenty.
        real: whether the command starts in a new interpreter instead of a fork.
    """

    kind: str
    step: int = 0
    calls: int = 0
    after: float = 0.0
    space: int = -1
    real: bool = False


@dataclass(frozen=True)
class Ended:
    """An ended command.

    Attributes:
        status: exit status, negative for a signal.
        said: standard output and error.
        steps: number of changes to the disk that it made, if it was forked and not killed.
        seconds: seconds since the first visible change.
        orphans: command lines of processes that it left.
    """

    status: int
    said: str
    steps: int
    seconds: float
    orphans: list[str]


class Disk:
    """A disk in memory with a folder to work in, or a plain folder if this machine does not let us mount one."""

    def __init__(self, root: Path) -> None:
        self.root, self.place, self._filler = root, root / "place", root / "filler"
        self.log, self._count = root.with_name(f"{root.name}.log"), root.with_name(f"{root.name}.count")
        root.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={MOUNT_SIZE}", "none", str(root)]
        self.mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0

    def restore(self, saved: Path | None = None) -> None:
        """Empty the folder, and fill it with saved contents."""
        self.free()
        shutil.rmtree(self.place, ignore_errors=True)
        if saved is None:
            self.place.mkdir()
        else:
            shutil.copytree(saved, self.place)

    def save(self, where: Path) -> None:
        """Save the contents of the folder."""
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(self.place, where)

    def fill(self, space: int = 0) -> None:
        """Fill the disk up to a number of free bytes."""
        fill_up(self._filler, space)

    def free(self) -> None:
        """Undo `fill`."""
        self._filler.unlink(missing_ok=True)

    def run(self, arguments: list[str], interruption: Interruption) -> Ended:
        """Run `mergecore ARGUMENTS` in the folder, and interrupt it."""
        before = set(os.listdir(self.place))
        self._count.unlink(missing_ok=True)
        if interruption.space >= 0:
            self.fill(interruption.space)
        process = (_Real if interruption.real else _Forked)(self, arguments, interruption)
        end = time.monotonic() + PATIENCE
        while process.alive() and set(os.listdir(self.place)) == before and time.monotonic() < end:
            time.sleep(0.0005)
        first = time.monotonic()
        if interruption.after:
            time.sleep(interruption.after)
            if process.alive():
                act(interruption.kind, process.pid, self._filler)
        while process.alive() and time.monotonic() < end:
            time.sleep(0.0005)
        seconds = time.monotonic() - first
        if process.alive():
            os.killpg(process.pid, signal.SIGKILL)
        status = process.status()
        steps = int(self._count.read_text()) if self._count.exists() else 0
        return Ended(status, self.log.read_text("utf-8", "replace"), steps, seconds, list(_orphans(process.pid)))

    def count(self, steps: int) -> None:
        """Save the number of changes. The child calls it."""
        self._count.write_text(str(steps))


def act(kind: str, process: int, filler: Path) -> None:
    """Interrupt a process, or fill its disk."""
    if kind == "full disk":
        fill_up(filler, 0)
    elif kind:
        with suppress(ProcessLookupError):
            os.kill(process, getattr(signal, kind))


def fill_up(filler: Path, space: int) -> None:
    """Grow a file until its disk has a number of free bytes."""
    file = os.open(filler, os.O_RDWR | os.O_CREAT)
    try:
        for _ in range(100):
            found = os.fstatvfs(file)
            free = found.f_bavail * found.f_bsize - space
            if free <= 0:
                return
            with suppress(OSError):  # the command takes some of it at the same time
                os.posix_fallocate(file, os.fstat(file).st_size, free)
    finally:
        os.close(file)


def environment(log: Path) -> dict[str, str]:
    """Return the environment variables that keep a command away from the user's files and the network."""
    home = log.with_suffix(".home")
    return {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_DATA_HOME": str(home / "data"),
        "HF_HUB_OFFLINE": "1",
        "MERGECORE_DISABLE": "health",
        "OMP_NUM_THREADS": "1",
    }


class _Forked:
    """A fork of a process that has imported torch. It can count its changes to the disk."""

    def __init__(self, disk: Disk, arguments: list[str], interruption: Interruption) -> None:
        self._process = FORKING.Process(target=_main, args=(disk, arguments, interruption))
        self._process.start()
        self.pid: int = self._process.pid

    def alive(self) -> bool:
        return bool(self._process.is_alive())

    def status(self) -> int:
        self._process.join()
        return int(self._process.exitcode)


class _Real:
    """A new process of the console script."""

    def __init__(self, disk: Disk, arguments: list[str], _: Interruption) -> None:
        script = Path(sys.executable).with_name("mergecore")
        with open(disk.log, "wb") as log:
            self._process = subprocess.Popen(
                [script, *arguments],
                cwd=disk.place,
                stdout=log,
                stderr=log,
                env=os.environ | environment(disk.log),
                start_new_session=True,
            )
        self.pid = self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def status(self) -> int:
        return self._process.wait()


def _main(disk: Disk, arguments: list[str], interruption: Interruption) -> None:
    os.setsid()
    os.chdir(disk.place)
    log = os.open(disk.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(environment(disk.log))
    sys.dont_write_bytecode = True
    from mergecore import cli
    from mergecore.running import journal

    journal.SECONDS = 0.02
    sys.argv = ["mergecore", *arguments]
    steps = _Steps(interruption, disk)
    sys.addaudithook(steps.audited)
    try:
        cli.main()
    finally:
        steps.watching = False
        disk.count(steps.count)


class _Steps:
    """Count the changes to the disk, and interrupt at the chosen one."""

    def __init__(self, interruption: Interruption, disk: Disk) -> None:
        self._interruption, self._disk = interruption, disk
        self.count, self.watching = 0, True
        self._calls = interruption.calls

    def audited(self, event: str, args: tuple[Any, ...]) -> None:
        if self.watching and file_changes(event, args):
            self.count += 1
            if self.count == self._interruption.step:
                sys.setprofile(self._called) if self._calls else self._act()

    def _called(self, frame: Any, event: str, arg: Any) -> None:
        self._calls -= event == "c_call"
        if not self._calls:
            sys.setprofile(None)
            self._act()

    def _act(self) -> None:
        act(self._interruption.kind, os.getpid(), self._disk.root / "filler")


def _orphans(session: int) -> Iterator[str]:
    """Yield the processes of a session that are still there after a few seconds."""
    end = time.monotonic() + 5
    while found := _members(session):
        if time.monotonic() > end:
            yield from found
            os.killpg(session, signal.SIGKILL)
            return
        time.sleep(0.05)


def _members(session: int) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found
