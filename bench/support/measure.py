"""Runs one command and says what it cost: wall and CPU seconds, peak resident and peak anonymous memory.

Wall time is taken around start and wait; CPU time (user + system) is what the kernel reports when the process is
reaped, children included. Memory is read every 10 ms from /proc/PID/statm of the process and all its children, added
up: "resident" counts file pages too, which the kernel can drop at any time (mapped checkpoints); "resident" less
"shared" is anonymous memory, which it cannot. Every 100 ms /proc/PID/status is read as well: its RssShmem (memory that
is shared, yet no file) is added to the anonymous memory, and its VmHWM, the kernel's own high-water mark, to the
resident peak, so that one between two readings is not lost; an anonymous peak shorter than 10 ms may be. The sampling
costs about 1 % of one core. Linux only. Nothing of this interpreter is counted: the figures begin anew at exec.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

INTERVAL = 0.01
LOOK_CLOSER = 10  # every so many readings: it costs more than a reading
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What a command cost; memory in bytes, time in seconds; `tail` is the last line it printed."""

    wall: float
    cpu: float
    peak_rss: int
    peak_anon: int
    returncode: int
    tail: str


@dataclass
class _Sampler:
    """Follows the memory of a process and its children until told to stop."""

    pid: int
    peak_rss: int = 0
    peak_anon: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        turn = shared_memory = 0
        pids = [self.pid]
        while not self.stop.wait(INTERVAL):
            if turn % LOOK_CLOSER == 0:
                pids = _family(self.pid)
                closer = [_status(pid) for pid in pids]
                shared_memory = sum(reading["RssShmem"] for reading in closer)
                self.peak_rss = max(self.peak_rss, *(reading["VmHWM"] for reading in closer))
            turn += 1
            readings = [_statm(pid) for pid in pids]
            self.peak_rss = max(self.peak_rss, sum(resident for resident, _ in readings))
            self.peak_anon = max(self.peak_anon, sum(anon for _, anon in readings) + shared_memory)


def _statm(pid: int) -> tuple[int, int]:
    """Resident and private anonymous bytes of a process; zeros once it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0, 0
    return resident * PAGE, (resident - shared) * PAGE


def _status(pid: int) -> dict[str, int]:
    """The memory lines of a process that its statm lacks, in bytes; zeros once it is gone."""
    found = {"VmHWM": 0, "RssShmem": 0}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    return found


def _family(pid: int) -> list[int]:
    """A process and all that came from it."""
    pids = [pid]
    for parent in pids:  # grows while it is walked: grandchildren are found too
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                pids += [int(child) for child in Path(f"/proc/{parent}/task/{task}/children").read_text().split()]
    return pids


def _sacrifice(pid: int) -> None:
    """If memory runs out, the measured command shall die, not the user's other work."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").replace("\r", "\n").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def measure(command: list[str], timeout: float = 3600.0) -> Usage:
    """Runs `command` to its end (killed after `timeout` seconds) with the Hugging Face Hub switched off."""
    # A health check after the merge is none of its cost.
    env = os.environ | {"HF_HUB_OFFLINE": "1", "MERGECORE_DISABLE": "health"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # what pip installs is compiled; a development install by its first run
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env, start_new_session=True)
        _sacrifice(process.pid)
        sampler = _Sampler(process.pid)
        thread = threading.Thread(target=sampler.run, daemon=True)
        thread.start()
        alarm = threading.Timer(timeout, os.killpg, (process.pid, signal.SIGKILL))
        alarm.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            alarm.cancel()
            sampler.stop.set()
        wall = time.perf_counter() - started
        thread.join()
        process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it again
        output.seek(0, os.SEEK_END)
        output.seek(max(0, output.tell() - 4096))
        tail = _last_line(output.read())
    cpu = usage.ru_utime + usage.ru_stime
    return Usage(wall, cpu, sampler.peak_rss, sampler.peak_anon, process.returncode, tail)


def torch_baseline(python: str, times: int = 3) -> int:
    """Peak anonymous memory in bytes of an interpreter that only imports torch: the floor for any tool built on it."""
    return int(median(measure([python, "-c", "import torch"]).peak_anon for _ in range(times)))


def why_failed(usage: Usage) -> str:
    """One short sentence on a run that failed, empty for one that did not."""
    if usage.returncode == -signal.SIGKILL:
        return "killed: out of memory or out of time"
    return (usage.tail or f"exit {usage.returncode}")[:300] if usage.returncode else ""
