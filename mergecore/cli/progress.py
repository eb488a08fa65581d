"""Progress of a run by bytes: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from mergecore.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PLAIN_LINES = 10
"""Lines of a whole run where there is no terminal."""


class Progress:
    """Shows how many of `total` bytes are done; a context manager around the run. `doing` says what is done."""

    def __init__(self, total: int, quiet: bool, doing: str = "merging") -> None:
        self._total, self._quiet, self._doing, self._written = total, quiet, doing, 0
        self._bar: Bar | None = None
        self._fetching: TaskID | None = None
        self._started = self._ended = self._last = time.perf_counter()
        self._lines = self._fetched = 0

    def __enter__(self) -> Progress:
        self._started = time.perf_counter()
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._bar = Bar("{task.description}", *columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self._doing, total=self._total)
            self._bar.start()
        return self

    def resume(self, done: int, total: int, count: int) -> None:
        """Say how many tensors an earlier run finished, and leave out their bytes."""
        self._total -= count
        if not self._quiet:
            print(f"resuming: {done} of {total} tensors are done", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.update(self._task, total=self._total)

    def fetch(self, done: int, total: int) -> None:
        """Show bytes of weights that have come from the Hub, of all that will; the merge's time begins after them."""
        self._started = time.perf_counter()
        if self._bar is not None:
            if self._fetching is None:
                self._fetching = self._bar.add_task("fetching", total=total)
            self._bar.update(self._fetching, completed=done)
        elif not self._quiet and total and done * PLAIN_LINES // total > self._fetched:
            self._fetched = done * PLAIN_LINES // total
            print(f"fetching {done / total:4.0%}  {done / 1e6:,.0f} MB", file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """A line of news, above the bar."""
        if self._bar is not None:
            self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
        elif not self._quiet:
            print(printable(text), file=sys.stderr, flush=True)

    def advance(self, count: int) -> None:
        """Count bytes that have been written."""
        self._written += count
        self._last = time.perf_counter()
        if self._bar is not None:
            self._bar.advance(self._task, count)
        elif not self._quiet and self._written * PLAIN_LINES // self._total > self._lines:
            self._lines = self._written * PLAIN_LINES // self._total
            print(f"{self._written / self._total:4.0%}  {self._written / 1e6:,.0f} MB", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = time.perf_counter()
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        return self._ended - self._started

    def summary(self) -> str:
        """Bytes, time and rate in a few words; the rate is that until the last byte: what follows merges nothing."""
        rate = self._written / max(self._last - self._started, 1e-9)
        return f"{self._written / 1e6:,.0f} MB in {self.seconds:.1f} s (merged at {rate / 1e6:,.0f} MB/s)"
