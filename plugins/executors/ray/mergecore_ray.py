"""Executor that runs a plan's jobs on the nodes of a Ray cluster with shared storage. No tensor leaves its node."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mergecore.api import TILE_ELEMENTS, Budget, InputError, Job, RunError, TensorIO, TileMerger, Work, keep_freed_pages

LOSSES = 3
"""Number of lost processes after which a job is considered the cause."""

LOOK_SECONDS = 5.0
"""Interval between checks for new nodes in the cluster."""


class RayExecutor:
    """Run one process per node, which works like the threads executor. See `mergecore.api.Executor`.

    Use the cluster that this process is connected to, or the one at RAY_ADDRESS, or one that `ray start` started on
    this machine. If there is none, start a cluster for this run only. Each node uses as many threads as it has CPUs
    according to Ray, and each node has the full memory budget. A job is done when its node has synced the output.
    Other nodes redo the jobs of a lost process or node. They write the same bytes to the same places.
    """

    def run(self, work: Work) -> None:
        """See `mergecore.api.Executor.run`."""
        with _connected():
            crew = _Crew(work)
            try:
                crew.run()
            finally:
                crew.dismiss()


class _Maker:
    """The process on one node. It keeps its files open as long as it runs.

    Its inputs are passed as pickles, so that errors while unpickling are reported as errors of the job.
    """

    def __init__(self, elsewhere: bytes, memory: int) -> None:
        keep_freed_pages()
        self._elsewhere, self._memory = elsewhere, memory
        self._budget = Budget(memory)
        self._ends: TensorIO | None = None
        self._opening, self._syncing = threading.Lock(), threading.Lock()
        self._of_thread = threading.local()

    def make(self, pickled: bytes) -> bool:
        """Do a job, sync its output, and return whether the output has NaN or infinity."""
        try:
            job: Job = pickle.loads(pickled)
            ends = self._opened()
        except ImportError as error:
            raise RunError(f"{socket.gethostname()}: {error}; install the same packages on all nodes") from None
        with self._budget.hold(job.memory(TILE_ELEMENTS)):
            self._merger(ends).make(job)
        with self._syncing:  # a sync already in progress might not cover this job's writes
            ends.sync()
        return job.name in ends.nonfinite

    def _opened(self) -> TensorIO:
        with self._opening:
            if self._ends is None:
                self._ends = pickle.loads(self._elsewhere)()
            return self._ends

    def _merger(self, ends: TensorIO) -> TileMerger:
        if not hasattr(self._of_thread, "merger"):
            torch.set_num_threads(1)
            work = Work([], ends.read, ends.write, lambda _: None, lambda _: None, self._memory, 1)
            self._of_thread.merger = TileMerger(work, TILE_ELEMENTS)
        merger: TileMerger = self._of_thread.merger
        return merger


@dataclass
class _Node:
    """An active node: its Ray ID, its process, how many jobs it takes at a time, and how many it has."""

    name: str
    maker: Any
    places: int
    taken: int = 0


class _Crew:
    """The active nodes with their jobs, and the waiting jobs, largest first."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._elsewhere = ray.put(pickle.dumps(work.elsewhere))
        self._waiting = deque(sorted(work.jobs, key=lambda job: -job.info.nbytes))
        self._nodes: dict[str, _Node] = {}
        self._given: dict[ray.ObjectRef, tuple[Job, _Node]] = {}
        self._losses: Counter[str] = Counter()
        self._next_look = 0.0

    def run(self) -> None:
        while self._waiting or self._given:
            if time.monotonic() >= self._next_look:
                self._recruit()
            self._hand_out()
            ready, _ = ray.wait(list(self._given), timeout=LOOK_SECONDS)
            for result in ready:
                self._take(result)

    def dismiss(self) -> None:
        """Stop all processes. The next run redoes the jobs that they have not reported."""
        for node in self._nodes.values():
            ray.kill(node.maker)

    def _recruit(self) -> None:
        """Start a process on every node that does not have one."""
        for found in ray.nodes():
            name, cpus = found["NodeID"], int(found["Resources"].get("CPU", 0))
            if found["Alive"] and cpus and name not in self._nodes:
                here = NodeAffinitySchedulingStrategy(name, soft=False)
                options = {"num_cpus": cpus, "max_concurrency": cpus, "scheduling_strategy": here}
                maker = ray.remote(_Maker).options(**options).remote(self._elsewhere, self._work.memory)
                self._nodes[name] = _Node(name, maker, 2 * cpus)  # half of them queue, to keep threads busy
        if not self._nodes:
            raise RunError("the Ray cluster has no more nodes with CPUs; add one: ray start --address=HEAD:6379")
        self._next_look = time.monotonic() + LOOK_SECONDS

    def _hand_out(self) -> None:
        """Assign jobs to the least busy nodes until all are full."""
        while self._waiting:
            node = min(self._nodes.values(), key=lambda node: node.taken / node.places)
            if node.taken == node.places:
                return
            job = self._waiting.popleft()
            self._given[node.maker.make.remote(pickle.dumps(job))] = job, node
            node.taken += 1

    def _take(self, result: ray.ObjectRef) -> None:
        """Report a finished job, or requeue it if its process was lost."""
        job, node = self._given.pop(result)
        node.taken -= 1
        try:
            if ray.get(result):
                self._work.nonfinite.add(job.name)
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            self._lose(job, node, error)
        else:
            self._work.advance(job.info.nbytes)
            self._work.done(job)

    def _lose(self, job: Job, node: _Node, error: RayError) -> None:
        self._losses[job.name] += 1
        if self._losses[job.name] == LOSSES:
            cause = " ".join(str(error).split())
            raise RunError(f"{job.name}: the Ray process that merges it was lost {LOSSES} times ({cause})") from None
        self._waiting.appendleft(job)
        if self._nodes.get(node.name) is node:  # not if another process has already replaced it
            del self._nodes[node.name]
            ray.kill(node.maker)
        self._recruit()


@contextmanager
def _connected() -> Iterator[None]:
    """Connect to the cluster, or reuse the caller's connection if there is one."""
    if ray.is_initialized():
        yield
        return
    _check_answers(os.environ.get("RAY_ADDRESS", ""))
    before = signal.getsignal(signal.SIGTERM)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's handler would end the run silently
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise InputError if no cluster listens at the address. Ray itself takes minutes to notice."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        return  # empty, or a Ray keyword such as "auto"
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError):
        raise InputError(
            f"RAY_ADDRESS: no Ray cluster answers at {address!r}; use the address that ray start --head prints, or"
            " unset it"
        ) from None
