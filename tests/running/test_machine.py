"""The defaults of a run respect the limits of cgroups, in the trees that Linux shows for versions 1 and 2."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from mergecore.running import spare_memory
from mergecore.running.machine import memory_left, usable_cores

GB = 10**9
V2 = "0::/system.slice/job.service\n"
V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "5:memory:/docker/abc/job\n3:cpu,cpuacct:/docker/abc/job\n0::/\n"
V1_MOUNTS = (
    "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "36 31 0:33 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def machine(root: Path, groups: str, mounts: str, files: Mapping[str, str]) -> Path:
    """Write the files of a machine with 64 GB available. `files` are paths below sys/fs/cgroup."""
    shown = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    shown |= {"proc/self/cgroup": groups, "proc/self/mountinfo": f"24 1 254:0 / / rw - ext4 /dev/vda rw\n{mounts}"}
    shown |= {"proc/meminfo": "MemTotal: 99999999 kB\nMemAvailable:   62500000 kB\n"}
    for name, text in shown.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


JOB, SLICE = "system.slice/job.service", "system.slice"
NO_LIMIT = str(2**63 - 4096)


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "memory", "cores"),
    [
        pytest.param("", "", {}, 64 * GB, 8, id="no cgroups"),
        pytest.param(
            V2, V2_MOUNT, {f"{JOB}/memory.max": "max", f"{JOB}/memory.current": "1", f"{JOB}/cpu.max": "max 100000"},
            64 * GB, 8, id="no limits",
        ),
        pytest.param(
            V2, V2_MOUNT,
            {f"{JOB}/memory.max": f"{8 * GB}", f"{JOB}/memory.current": f"{2 * GB}", f"{JOB}/cpu.max": "250000 100000"},
            6 * GB, 3, id="a limit of the job",
        ),
        pytest.param(
            V2, V2_MOUNT,
            {f"{SLICE}/memory.max": f"{4 * GB}", f"{SLICE}/memory.current": f"{3 * GB}", f"{JOB}/memory.max": "max",
             f"{JOB}/memory.current": "5", f"{SLICE}/cpu.max": "50000 100000", f"{JOB}/cpu.max": "400000 100000"},
            GB, 1, id="a tighter limit of a parent",
        ),
        pytest.param(
            V2, V2_MOUNT,
            {f"{JOB}/memory.max": f"{8 * GB}", f"{JOB}/memory.high": f"{6 * GB}", f"{JOB}/memory.current": f"{2 * GB}"},
            4 * GB, 8, id="throttled below its limit",
        ),
        pytest.param(
            V2, V2_MOUNT,
            {f"{JOB}/memory.max": f"{8 * GB}", f"{JOB}/memory.current": f"{8 * GB}",
             f"{JOB}/memory.stat": f"anon {2 * GB}\ninactive_file {5 * GB}\nactive_file {GB}\n"},
            6 * GB, 8, id="full of cached files",
        ),
        pytest.param(
            V2, V2_MOUNT, {f"{JOB}/memory.max": f"{GB}", f"{JOB}/memory.current": f"{2 * GB}"}, 0, 8, id="nothing left",
        ),
        pytest.param(
            V1, V1_MOUNTS,
            {"memory/job/memory.limit_in_bytes": NO_LIMIT, "memory/job/memory.usage_in_bytes": "0",
             "memory/memory.limit_in_bytes": f"{8 * GB}", "memory/memory.usage_in_bytes": f"{6 * GB}",
             "memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {2 * GB}\n",
             "cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000",
             "cpu,cpuacct/job/cpu.cfs_quota_us": "-1", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
            4 * GB, 2, id="version 1, in a container",
        ),
        pytest.param(
            "0::/../../elsewhere\n", V2_MOUNT,
            {"memory.max": f"{2 * GB}", "memory.current": "0", "cpu.max": "100000 100000"},
            2 * GB, 1, id="outside of what is mounted",
        ),
    ],
)  # fmt: skip
def test_the_tightest_limit_counts(
    tmp_path: Path, groups: str, mounts: str, files: Mapping[str, str], memory: int, cores: int
) -> None:
    root = machine(tmp_path, groups, mounts, files)
    assert (memory_left(root), usable_cores(root)) == (memory, cores)


def test_a_system_without_proc_has_a_default(tmp_path: Path) -> None:
    assert memory_left(tmp_path) == 4 * 2**30 and usable_cores(tmp_path) == 8


def test_half_of_the_memory_of_this_machine_is_offered_at_most() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < spare_memory() <= total // 2
