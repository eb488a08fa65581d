"""Run a command and measure wall and CPU seconds, peak resident memory, and peak anonymous memory.

Wall time covers start and wait. CPU time (user + system, with children) is what the kernel reports when the process is
reaped. Memory is sampled every 10 ms from /proc/PID/statm and summed over the process and all its children. "Resident"
includes file pages such as mapped checkpoints, which the kernel can drop at any time. "Resident" minus "shared" is
anonymous memory, which it cannot drop. Every 100 ms, /proc/PID/status is read too. Its RssShmem (shared memory without
a file) counts as anonymous, and its VmHWM, the kernel's high-water mark, catches resident peaks between two samples.
An anonymous peak shorter than 10 ms can be missed. Sampling takes about 1% of one core. Linux only. This interpreter
is not included, because the counters are reset at exec.
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
LOOK_CLOSER = 10  # samples between reads of the status, which is slower to read
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Resource usage of a command: memory in bytes, time in seconds, and its last line of output (`tail`)."""

    wall: float
    cpu: float
    peak_rss: int
    peak_anon: int
    returncode: int
    tail: str


@dataclass
class _Sampler:
    """Sample the memory of a process and its children until stopped."""

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
    """Return resident and private anonymous bytes of a process, or zeros if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0, 0
    return resident * PAGE, (resident - shared) * PAGE


def _status(pid: int) -> dict[str, int]:
    """Return memory fields that statm does not have, in bytes, or zeros if the process has ended."""
    found = {"VmHWM": 0, "RssShmem": 0}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    return found


def _family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    pids = [pid]
    for parent in pids:  # the list grows during iteration, to include grandchildren
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                pids += [int(child) for child in Path(f"/proc/{parent}/task/{task}/children").read_text().split()]
    return pids


def _sacrifice(pid: int) -> None:
    """Make the OOM killer choose the measured command over the user's other processes."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").replace("\r", "\n").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def measure(command: list[str], timeout: float = 3600.0) -> Usage:
    """Run `command` with Hugging Face Hub access disabled. Kill it after `timeout` seconds."""
    # The health check after a merge is not part of the measurement.
    env = os.environ | {"HF_HUB_OFFLINE": "1", "MERGECORE_DISABLE": "health"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # development installs are compiled on first run
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
        process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait again
        output.seek(0, os.SEEK_END)
        output.seek(max(0, output.tell() - 4096))
        tail = _last_line(output.read())
    cpu = usage.ru_utime + usage.ru_stime
    return Usage(wall, cpu, sampler.peak_rss, sampler.peak_anon, process.returncode, tail)


def bare_baseline(python: str, times: int = 3) -> int:
    """Return the peak anonymous bytes of an interpreter that does nothing."""
    return int(median(measure([python, "-c", "pass"]).peak_anon for _ in range(times)))


def torch_baseline(python: str, times: int = 3) -> int:
    """Return the peak anonymous bytes of an interpreter that only imports torch, the minimum for torch-based tools."""
    return int(median(measure([python, "-c", "import torch"]).peak_anon for _ in range(times)))


def why_failed(usage: Usage) -> str:
    """Return a short reason for a failed run, or an empty string."""
    if usage.returncode == -signal.SIGKILL:
        return "killed: out of memory or timed out"
    return (usage.tail or f"exit {usage.returncode}")[:300] if usage.returncode else ""
