"""Measure how long the listing commands take with the installed plugins and with 50 more."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from mergecore_testing import PluginEnv

COMMANDS = (["--help"], ["methods", "list"], ["arch", "list"], ["plugins", "list"])
RUNS, LIMIT = 9, 0.4


def median_seconds(env: PluginEnv, command: list[str]) -> float:
    """Return the median wall time of a command in seconds, including the interpreter."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        result = env.mergecore(*command)
        times.append(time.perf_counter() - started)
        assert result.returncode == 0, result.stderr
    return statistics.median(times)


def main() -> int:
    """Print the table and return 1 if a median exceeds the limit."""
    slow = False
    for more in (0, 50):
        with tempfile.TemporaryDirectory() as folder:
            env = PluginEnv(Path(folder))
            for number in range(more):
                env.add(f"mergecore-x{number}", {"methods": {f"x{number}": f"mergecore_x{number}:Method"}})
            count = env.mergecore("plugins", "list").stdout.count("\n")
            for command in COMMANDS:
                seconds = median_seconds(env, command)
                slow |= seconds > LIMIT
                print(f"{count:3} plugins  mergecore {' '.join(command):14} {seconds * 1e3:5.0f} ms  (limit {LIMIT} s)")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
