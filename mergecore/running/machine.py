"""The memory and cores that this process can use: those of the machine, within the limits of its cgroups."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath


def spare_memory() -> int:
    """Return the default memory budget in bytes: half of what the machine and the limits of its cgroups leave."""
    return memory_left(Path("/")) // 2


def available_cores() -> int:
    """Return the number of cores that this process can use."""
    return usable_cores(Path("/"))


def memory_left(root: Path) -> int:
    """Return the bytes that are available on the machine and in every cgroup of this process.

    Args:
        root: the folder with ``proc`` and ``sys``.
    """
    free = [size for key, size in _table(root / "proc/meminfo") if key == "MemAvailable:"]
    free = [size * 1024 for size in free] or [2**32]
    return max(0, min(free + list(_free_in_groups(root))))


def usable_cores(root: Path) -> int:
    """Return the number of cores within all limits. A fraction of a core counts as one.

    Args:
        root: the folder with ``proc`` and ``sys``.
    """
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [_text(group / "cpu.max").partition(" ")[::2] for group in _groups(root, "")]
    for group in _groups(root, "cpu"):
        quotas.append((_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")))
    for quota, period in quotas:
        if quota.isdigit() and period.isdigit() and int(period):  # otherwise "max" or "-1": there is no limit
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    return cores


def _free_in_groups(root: Path) -> Iterator[int]:
    """Yield the bytes that are left in each cgroup with a limit.

    Cached files count as used in a cgroup, but the kernel drops them before it refuses memory, so they are free.
    """
    names = {"": (("memory.max", "memory.high"), "memory.current", ("active_file", "inactive_file")),
             "memory": (("memory.limit_in_bytes",), "memory.usage_in_bytes",
                        ("total_active_file", "total_inactive_file"))}  # fmt: skip
    for controller, (limits, usage, cached) in names.items():
        for group in _groups(root, controller):
            sizes = [int(text) for name in limits if (text := _text(group / name)).isdigit()]
            used = _text(group / usage)
            if sizes and used.isdigit():
                files = sum(size for key, size in _table(group / "memory.stat") if key in cached)
                yield min(sizes) - max(0, int(used) - files)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of this process's cgroup and those of its ancestors, as far as they are mounted.

    Args:
        root: the folder with ``proc`` and ``sys``.
        controller: a controller of cgroup v1. An empty string is for cgroup v2, which has one tree for all.
    """
    lines = (line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines())
    paths = [line[2] for line in lines if len(line) == 3 and controller in line[1].split(",")]
    for line in _text(root / "proc/self/mountinfo").splitlines():
        place, _, kind = line.partition(" - ")
        fields, system = place.split(), kind.split()
        if len(fields) < 5 or len(system) < 3 or not paths:
            continue
        shown = controller in system[2].split(",") if controller else True
        if shown and system[0] == ("cgroup" if controller else "cgroup2"):
            top = root / fields[4].lstrip("/")
            # Inside a container, a path can be outside what is mounted. Then only the mounted top is known.
            inside = PurePosixPath(paths[0]).is_relative_to(fields[3]) and ".." not in paths[0]
            below = PurePosixPath(paths[0]).relative_to(fields[3]) if inside else PurePosixPath()
            yield from (top / part for part in (below, *below.parents))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""


def _table(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the first number of each line."""
    for line in _text(path).splitlines():
        name, *numbers = line.split()
        if numbers and numbers[0].isdigit():
            yield name, int(numbers[0])
