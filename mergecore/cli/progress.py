"""Show the progress of a run: a bar with rate and time left in a terminal, plain lines elsewhere."""

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
"""Number of progress lines in a run without a terminal."""


class Progress:
    """Shows how many of `total` bytes are done. Use it as a context manager. `doing` is the label of the bar."""

    def __init__(self, total: int, quiet: bool, doing: str = "merging") -> None:
        self._total, self._quiet, self._doing, self._written = total, quiet, doing, 0
        self._bar: Bar | None = None
        self._fetching: TaskID | None = None
        self._started = self._last = time.perf_counter()
        self._ended: float | None = None
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
        """Report how many tensors an earlier run finished, and subtract their bytes from the total."""
        self._total -= count
        if not self._quiet:
            print(f"resuming: {done} of {total} tensors are done", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.update(self._task, total=self._total)

    def fetch(self, done: int, total: int) -> None:
        """Show the bytes downloaded from the Hub so far. The time of the merge starts after the download."""
        self._started = time.perf_counter()
        if self._bar is not None:
            if self._fetching is None:
                self._fetching = self._bar.add_task("downloading", total=total)
            self._bar.update(self._fetching, completed=done)
        elif not self._quiet and total and done * PLAIN_LINES // total > self._fetched:
            self._fetched = done * PLAIN_LINES // total
            print(f"downloading {done / total:4.0%}  {done / 1e6:,.0f} MB", file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
        elif not self._quiet:
            print(printable(text), file=sys.stderr, flush=True)

    def advance(self, count: int) -> None:
        """Count written bytes."""
        self._written += count
        self._last = time.perf_counter()
        if self._bar is not None:
            self._bar.advance(self._task, count)
        elif not self._quiet and self._written * PLAIN_LINES // self._total > self._lines:
            self._lines = self._written * PLAIN_LINES // self._total
            print(f"{self._written / self._total:4.0%}  {self._written / 1e6:,.0f} MB", file=sys.stderr, flush=True)

    def published(self) -> None:
        """Stop the clock and the bar. Checks of the finished result do not count."""
        self._ended = time.perf_counter()
        if self._bar is not None:
            self._bar.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended is None:
            self.published()

    @property
    def seconds(self) -> float:
        """Time from the start, or the end of the download, until the result was complete."""
        return (self._ended or time.perf_counter()) - self._started

    def summary(self) -> str:
        """Summarize bytes, time, and rate. The rate is measured until the last byte, before post-processing."""
        rate = self._written / max(self._last - self._started, 1e-9)
        return f"{self._written / 1e6:,.0f} MB in {self.seconds:.1f} s (merged at {rate / 1e6:,.0f} MB/s)"
