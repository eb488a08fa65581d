"""Run the command line, and measure the peak memory of it and of the processes that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

# A small process starts the command, because a child's peak includes that of the process that it is forked from.
MEASURED = """
import os, sys
child = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(child, 0)  # the largest peak of the child and its children
print("\\npeak", usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Ended:
    """What a command returned and printed, and the largest peak of its processes in bytes."""

    status: int
    printed: str
    said: str
    peak: int


def measured(*arguments: Any, **environment: str) -> Ended:
    """Run ``python ARGUMENTS`` with additional environment variables."""
    words = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    printed, _, peak = done.stdout.rpartition("\npeak ")
    return Ended(done.returncode, printed, done.stderr, int(peak))
