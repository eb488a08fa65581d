"""A run: the plan's jobs done by an executor, the folder finished by post-processors and put in place whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mergecore.api import Ends, Executor, Job, PostProcessor, Work
from mergecore.discovery import Registry, finish, load_postprocessors
from mergecore.errors import RunError
from mergecore.models import check_unchanged
from mergecore.planning import Plan, merged_model
from mergecore.recipes import Lock
from mergecore.running.journal import Journal, read_journal
from mergecore.running.lock_writer import changes, check_outputs, describe, write_lock
from mergecore.running.locks import locked
from mergecore.running.output_folder import Target
from mergecore.running.prefetch import fetch
from mergecore.running.run_identity import difference, identity
from mergecore.running.streaming_hash import Digests, Follower
from mergecore.running.tensor_io import FileEnds

SHARD_BYTES = 5 * 10**9
"""Largest weight file, unless asked otherwise; what the Hub's tools use."""


def spare_memory() -> int:
    """Bytes that a run may have in flight by default: half of what the machine has available."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // 2
    except OSError:
        pass
    return 2 * 2**30


def available_cores() -> int:
    """Cores that this process may use."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    """How to run.

    Attributes:
        memory: budget in bytes.
        workers: threads.
        shard_bytes: largest weight file.
        executor, writer: names of installed ones.
        force: replace OUT.
        allow_nonfinite: write NaN and infinity.
        file: the name of the only file that the writer makes, where OUT is to be that file and no folder.
        hash_inputs: put the SHA-256 of the models' weight files into the lock whatever that takes.
        without: names of post-processors that are left out.

    Without `shard_bytes` it is what a lock says, else `SHARD_BYTES`.
    """

    memory: int
    workers: int
    shard_bytes: int = 0
    executor: str = "threads"
    force: bool = False
    allow_nonfinite: bool = False
    writer: str = "safetensors"
    file: str | None = None
    hash_inputs: bool = False
    without: tuple[str, ...] = ()

    def settled(self, lock: Lock | None) -> Options:
        """The same with a size for files."""
        return replace(self, shard_bytes=self.shard_bytes or (lock.value["shard_size"] if lock else SHARD_BYTES))


@dataclass(frozen=True)
class Listener:
    """Who is told of a run's course.

    Attributes:
        warn: of anything left out, not as expected or kept, as a sentence.
        advance: of output bytes as they are written, one thread at a time.
        resume: how many tensors an earlier run finished, of how many, and their bytes.
        fetch: of bytes of weights that have come from the Hub, and of all that will, one thread at a time.
        tell: of what post-processors found out about the result, line by line.
    """

    warn: Callable[[str], None]
    advance: Callable[[int], None] = lambda count: None
    resume: Callable[[int, int, int], None] = lambda done, total, count: None
    fetch: Callable[[int, int], None] = lambda done, total: None
    tell: Callable[[str], None] = lambda text: None


def run_plan(
    plan: Plan,
    out: Path,
    registry: Registry,
    options: Options,
    listener: Listener,
    finishing: Mapping[str, PostProcessor] | None = None,
) -> Path:
    """Merge a plan into a folder that appears whole or not at all, and its kept stages each into one beside it.

    Args:
        plan: what to do.
        out: the output folder; its neighbour ``OUT.partial`` holds the files until they are complete.
        registry: the plugins.
        options: how to run.
        listener: told of the run's course.
        finishing: the steps after the weights, by name; default: every installed post-processor but `without`.

    Raises:
        InputError: OUT exists or another run is writing it, the disk is too small, or a plugin is missing.
        RunError: something failed on the way, and the tensors that are finished are kept for the next run; or the
            result is made but is not what a lock says.
    """
    lock, options = plan.recipe.lock, options.settled(plan.recipe.lock)
    results = [
        *((item, Target(kept_folder(out, name))) for name, item in plan.kept.items()),
        (plan, Target(out, options.file)),
    ]
    for item, target in results:
        target.check(_inputs(item), item.bytes_out, options.force)
    executor = registry.provide("executors", options.executor)()
    recorded = finishing is None and plan.command == "run"  # what a tool made, a recipe does not make again
    if finishing is None:
        finishing = load_postprocessors(registry, listener.warn, options.without)
    try:
        with ExitStack() as stack:
            for item, target in results:
                stack.enter_context(locked(target.lock))
                stack.enter_context(_keeping(target, len(item.jobs), listener))
                target.restore()
                # Again: another run may have ended before the lock was ours.
                target.check(_inputs(item), item.bytes_out, options.force)
            for item, _ in results:
                fetch(item, listener.fetch)
            for item, target in results:
                digests = _merge(item, target, registry, executor, options, listener, recorded)
                model = merged_model(item, target.result, target.folder.name, listener.warn)
                model = replace(model, tell=listener.tell, memory=options.memory)
                for name, postprocessor in finishing.items():
                    finish(name, postprocessor, model, registry)
                content = _lock(item, target, registry, options, listener, digests) if recorded else {}
            for item, target in results:
                check_unchanged(item.stamps)
                target.publish(options.force)
        if lock:  # of the output, which is the last of the results
            check_outputs(lock, content["outputs"], out)
    except BaseException as error:
        registry.notify("on_error", error=error)
        raise
    for _, target in results:
        registry.notify("after_write", folder=target.out)
    return out


def _inputs(plan: Plan) -> list[Path]:
    return [folder for checkpoint in plan.models for folder in checkpoint.folders]


def _lock(
    plan: Plan, target: Target, registry: Registry, options: Options, listener: Listener, digests: Digests
) -> dict[str, Any]:
    """Write the result's lock; where the run is from one, say what is not as it was."""
    described = describe(plan, target.folder, registry, options.shard_bytes)
    if plan.recipe.lock and (text := changes(plan.recipe.lock, described)):
        listener.warn(text)
    return write_lock(plan, target, described, digests, options.workers, options.hash_inputs)


def kept_folder(out: Path, name: str) -> Path:
    """Where a stage that is kept is written: beside the output, ``OUT-NAME``."""
    return Target(out).folder.with_name(f"{Target(out).folder.name}-{name}")


@contextmanager
def _keeping(target: Target, total: int, listener: Listener) -> Iterator[None]:
    """Whatever stops the run, say what of it the next one will find; nothing is kept of nothing."""
    try:
        try:
            yield
        except BaseException:
            record = read_journal(target.journal)
            if record and record.done:
                kept = f"keeps {len(record.done)} of {total} tensors"
                listener.warn(f"{target.partial}: {kept}; run the recipe again to go on")
            else:
                target.clear()
            raise
    except OSError as error:
        where = error.filename or target.partial
        raise RunError(f"{where}: {error.strerror or error}; run again when that is mended") from error


def _merge(
    plan: Plan,
    target: Target,
    registry: Registry,
    executor: Executor,
    options: Options,
    listener: Listener,
    hashed: bool,
) -> Digests:
    """Write every tensor that no earlier run has finished; gives the digests of files that were hashed meanwhile."""
    make_writer = registry.provide("writers", options.writer)
    made_of = identity(plan, registry, options.shard_bytes)
    done = _resume(target, made_of, listener)
    jobs = [job for job in plan.jobs if job.name not in done]
    if done:
        listener.resume(len(done), len(plan.jobs), plan.bytes_out - sum(job.info.nbytes for job in jobs))
    open_writer = partial(make_writer, target.result, plan.tensors, options.shard_bytes)
    opening = partial(FileEnds, plan.checkpoints, plan.jobs, open_writer, options.allow_nonfinite)
    ends = opening()

    def settle() -> None:
        check_unchanged(plan.stamps)
        ends.sync()

    follower = Follower(getattr(ends.writer, "places", {}) if hashed else {}, plan.tensors)
    for name in done:
        follower.wrote(name, 0, plan.tensors[name].elements)
    ends.wrote = follower.wrote
    try:
        head = {"identity": made_of, "files": target.files()}
        with Journal(target.journal, head, done, settle) as journal, follower:
            executor.run(_work(jobs, ends, opening, journal, registry, options, listener))
        digests = follower.digests()  # before anything else can change the files
        ends.writer.finish()
    finally:
        ends.writer.close()
    return digests


def _resume(target: Target, made_of: dict[str, Any], listener: Listener) -> set[str]:
    """The tensors that an earlier run of the same plan finished; none, and an empty folder, if there is none."""
    record = read_journal(target.journal)
    if record and record.done:
        reason = difference(record.head.get("identity", {}), made_of)
        if not reason and target.keep(record.head["files"]):
            return set(record.done)
        reason = reason or "its files are not as they were left"
        listener.warn(f"{target.partial}: begun anew, because {reason}")
    target.clear()
    target.result.mkdir(parents=True)
    return set()


def _work(
    jobs: Sequence[Job],
    ends: FileEnds,
    elsewhere: Callable[[], Ends],
    journal: Journal,
    registry: Registry,
    options: Options,
    listener: Listener,
) -> Work:
    turn = threading.Lock()

    def advanced(count: int) -> None:
        journal.check()
        with turn:
            listener.advance(count)

    def done(job: Job) -> None:
        with turn:
            if job.name in ends.nonfinite:  # not journaled: a run that does not allow it must come across it
                listener.warn(f"{job.name}: holds NaN or infinity")
            else:
                journal.add(job.name)
            registry.notify("after_tensor", name=job.name, info=job.info)

    return Work(
        jobs,
        ends.read,
        ends.write,
        advanced,
        done,
        options.memory,
        options.workers,
        elsewhere,
        ends.nonfinite,
        listener.warn,
    )
