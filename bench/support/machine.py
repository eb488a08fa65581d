"""Describe the machine used for measurements without identifying it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import datetime, timezone
from pathlib import Path


def _first(path: str, key: str) -> str:
    """Return the value of the first `key : value` line in a /proc file."""
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "unknown")


def _disk(folder: Path) -> str:
    """Return the file system, device, and disk type of `folder`, as reported by the kernel."""
    folder = folder.resolve()
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    device, _, system, *_ = max(holding, key=lambda mount: len(mount[1]))
    number = os.stat(folder).st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    flags = [path for path in (block / "queue/rotational", block.parent / "queue/rotational") if path.exists()]
    kind = {"0": "solid state", "1": "rotating or virtual"}[flags[0].read_text().strip()] if flags else "unknown type"
    return f"{system} on {Path(device).name}, {kind}"


def describe(work: Path) -> dict[str, object]:
    """Return CPU, cores, memory, disk of `work`, versions, date, and load of this machine."""
    return {
        "cpu": _first("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(_first("/proc/meminfo", "MemTotal").split()[0]) * 1024 / 1e9, 1),
        "disk": _disk(work),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 2),
    }
