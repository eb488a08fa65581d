"""Run a plan: an executor does the jobs, post-processors complete the folder, and it is moved into place atomically."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mergecore.api import Executor, Job, PostProcessor, TensorIO, Work
from mergecore.discovery import Registry, load_postprocessors, run_postprocessor
from mergecore.errors import RunError
from mergecore.models import check_unchanged
from mergecore.planning import Plan, merged_model
from mergecore.recipes import Lock
from mergecore.running.journal import Journal, read_journal
from mergecore.running.lock_writer import check_outputs, describe_changes, describe_run, write_lock
from mergecore.running.locks import hold_lock
from mergecore.running.output_folder import OutputFolder
from mergecore.running.prefetch import prefetch
from mergecore.running.run_identity import identity_difference, run_identity
from mergecore.running.streaming_hash import Digests, StreamingHash
from mergecore.running.tensor_io import FileTensorIO

SHARD_BYTES = 5 * 10**9
"""Default maximum size of a weight file, the same as in the Hub's tools."""


def spare_memory() -> int:
    """Return the default memory budget in bytes: half of the machine's available memory."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // 2
    except OSError:
        pass
    return 2 * 2**30


def available_cores() -> int:
    """Return the number of cores that this process can use."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        memory: memory budget in bytes.
        workers: number of threads.
        shard_bytes: maximum size of a weight file. 0 uses the size in the lock file, or `SHARD_BYTES`.
        executor, writer: names of installed plugins.
        force: replace OUT if it exists.
        allow_nonfinite: write NaN and infinity.
        file: the name of the writer's only file, if OUT is that file instead of a folder.
        hash_inputs: always record the SHA-256 of the input weight files in the lock file, even if that takes long.
        without: names of post-processors to skip.
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
        """Return these options with `shard_bytes` set."""
        return replace(self, shard_bytes=self.shard_bytes or (lock.value["shard_size"] if lock else SHARD_BYTES))


@dataclass(frozen=True)
class Listener:
    """Callbacks for the progress of a run.

    Attributes:
        warn: called with each warning.
        advance: called with the number of output bytes as they are written, from one thread at a time.
        resume: called with the number of tensors that an earlier run finished, the total number, and the bytes done.
        fetch: called with the bytes of weights downloaded so far and in total, from one thread at a time.
        tell: called with each line that post-processors report about the result.
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
    """Merge a plan into a folder, and each of its kept stages into a folder next to it. Folders are written atomically.

    Args:
        plan: the plan to run.
        out: the output folder. Its neighbor ``OUT.partial`` contains the files until they are complete.
        registry: the plugins.
        options: options of the run.
        listener: callbacks for progress.
        finishing: the post-processors to run, by name. Defaults to every installed one except `options.without`.

    Raises:
        InputError: if OUT exists, another run is writing to it, the disk is too small, or a plugin is missing.
        RunError: if the run failed, in which case finished tensors are kept for the next run, or if the run finished
            but the result does not match the lock file.
    """
    lock, options = plan.recipe.lock, options.settled(plan.recipe.lock)
    results = [
        *((item, OutputFolder(kept_folder(out, name))) for name, item in plan.kept.items()),
        (plan, OutputFolder(out, options.file)),
    ]
    for item, target in results:
        target.check(_inputs(item), item.bytes_out, options.force)
    executor = registry.provide("executors", options.executor)()
    recorded = finishing is None and plan.command == "run"  # a recipe cannot reproduce the output of other tools
    if finishing is None:
        finishing = load_postprocessors(registry, listener.warn, options.without)
    try:
        with ExitStack() as stack:
            for item, target in results:
                stack.enter_context(hold_lock(target.lock))
                stack.enter_context(_keeping(target, len(item.jobs), listener))
                target.restore()
                # Check again, because another run might have ended before this one got the lock.
                target.check(_inputs(item), item.bytes_out, options.force)
            for item, _ in results:
                prefetch(item, listener.fetch)
            for item, target in results:
                digests = _merge(item, target, registry, executor, options, listener, recorded)
                model = merged_model(item, target.result, target.folder.name, listener.warn)
                model = replace(model, tell=listener.tell, memory=options.memory)
                for name, postprocessor in finishing.items():
                    run_postprocessor(name, postprocessor, model, registry)
                content = _lock(item, target, registry, options, listener, digests) if recorded else {}
            for item, target in results:
                check_unchanged(item.stamps)
                target.publish(options.force)
        if lock:  # it describes the output, which is the last result
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
    plan: Plan, target: OutputFolder, registry: Registry, options: Options, listener: Listener, digests: Digests
) -> dict[str, Any]:
    """Write the lock file of the result. If the run started from a lock file, warn about what changed."""
    described = describe_run(plan, target.folder, registry, options.shard_bytes)
    if plan.recipe.lock and (text := describe_changes(plan.recipe.lock, described)):
        listener.warn(text)
    return write_lock(plan, target, described, digests, options.workers, options.hash_inputs)


def kept_folder(out: Path, name: str) -> Path:
    """Return the folder for a kept stage: ``OUT-NAME``, next to the output."""
    return OutputFolder(out).folder.with_name(f"{OutputFolder(out).folder.name}-{name}")


@contextmanager
def _keeping(target: OutputFolder, total: int, listener: Listener) -> Iterator[None]:
    """If the run stops for any reason, report what the next run can resume. If nothing is finished, keep no files."""
    try:
        try:
            yield
        except BaseException:
            record = read_journal(target.journal)
            if record and record.done:
                kept = f"has {len(record.done)} of {total} tensors"
                listener.warn(f"{target.partial}: {kept}; run the same recipe again to resume")
            else:
                target.clear()
            raise
    except OSError as error:
        where = error.filename or target.partial
        raise RunError(f"{where}: {error.strerror or error}; fix this and run again") from error


def _merge(
    plan: Plan,
    target: OutputFolder,
    registry: Registry,
    executor: Executor,
    options: Options,
    listener: Listener,
    hashed: bool,
) -> Digests:
    """Write every tensor that no earlier run has finished. Return the digests of the files hashed during writing."""
    make_writer = registry.provide("writers", options.writer)
    made_of = run_identity(plan, registry, options.shard_bytes)
    done = _resume(target, made_of, listener)
    jobs = [job for job in plan.jobs if job.name not in done]
    if done:
        listener.resume(len(done), len(plan.jobs), plan.bytes_out - sum(job.info.nbytes for job in jobs))
    open_writer = partial(make_writer, target.result, plan.tensors, options.shard_bytes)
    opening = partial(FileTensorIO, plan.checkpoints, plan.jobs, open_writer, options.allow_nonfinite)
    ends = opening()

    def settle() -> None:
        check_unchanged(plan.stamps)
        ends.sync()

    follower = StreamingHash(getattr(ends.writer, "places", {}) if hashed else {}, plan.tensors)
    for name in done:
        follower.wrote(name, 0, plan.tensors[name].elements)
    ends.wrote = follower.wrote
    try:
        head = {"identity": made_of, "files": target.files()}
        with Journal(target.journal, head, done, settle) as journal, follower:
            executor.run(_work(jobs, ends, opening, journal, registry, options, listener))
        digests = follower.digests()  # before anything else can modify the files
        ends.writer.finish()
    finally:
        ends.writer.close()
    return digests


def _resume(target: OutputFolder, made_of: dict[str, Any], listener: Listener) -> set[str]:
    """Return the tensors that an earlier run of the same plan finished, or else start over with an empty folder."""
    record = read_journal(target.journal)
    if record and record.done:
        reason = identity_difference(record.head.get("identity", {}), made_of)
        if not reason and target.keep(record.head["files"]):
            return set(record.done)
        reason = reason or "its files were changed"
        listener.warn(f"{target.partial}: starting over because {reason}")
    target.clear()
    target.result.mkdir(parents=True)
    return set()


def _work(
    jobs: Sequence[Job],
    ends: FileTensorIO,
    elsewhere: Callable[[], TensorIO],
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
            if job.name in ends.nonfinite:  # not journaled, so that a run that does not allow it finds it again
                listener.warn(f"{job.name}: contains NaN or infinity")
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
