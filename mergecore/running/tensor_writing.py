"""Write the tensors of a plan: resume what an earlier run finished, let an executor do the rest, and journal it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mergecore.api import Executor, Job, PlacedWriter, TensorIO, Work
from mergecore.discovery import Registry
from mergecore.models import check_unchanged
from mergecore.planning import Plan
from mergecore.running.block_hashes import BlockHashes, Digests
from mergecore.running.folder_writer import module_writer
from mergecore.running.journal import Journal, read_journal
from mergecore.running.output_folder import OutputFolder
from mergecore.running.run_identity import identity_difference, run_identity
from mergecore.running.settings import Listener, Options
from mergecore.running.tensor_io import FileTensorIO


def write_tensors(
    plan: Plan,
    target: OutputFolder,
    registry: Registry,
    executor: Executor,
    options: Options,
    listener: Listener,
    hashed: bool,
) -> Digests:
    """Write every tensor that no earlier run has finished.

    Args:
        plan: the plan with the jobs.
        target: the output folder. Its journal lists the finished tensors.
        registry: the plugins.
        executor: runs the jobs.
        options: options of the run.
        listener: callbacks for progress.
        hashed: whether to hash the files while they are written.

    Returns:
        The hashes of the files that the writer has placed tensors in.
    """
    make_writer = registry.provide("writers", options.writer)
    if modules := {module.path for module in plan.checkpoints[plan.config_source].modules}:
        make_writer = partial(module_writer, make_writer, modules)
    made_of = run_identity(plan, registry, options.shard_bytes)
    done = _resume(target, made_of, listener)
    jobs = [job for job in plan.jobs if job.name not in done]
    if done:
        listener.resume(len(done), len(plan.jobs), plan.bytes_out - sum(job.info.nbytes for job in jobs))
    tensors = plan.tensors
    open_writer = partial(make_writer, target.result, tensors, options.shard_bytes)
    opening = partial(FileTensorIO, plan.checkpoints, plan.jobs, open_writer, options.allow_nonfinite)
    ends = opening()

    def settle() -> None:
        check_unchanged(plan.stamps)
        ends.sync()

    places = ends.writer.places if hashed and isinstance(ends.writer, PlacedWriter) else {}
    hashes = BlockHashes(places, tensors, registry.kernels())
    ends.wrote = hashes.wrote
    try:
        head = {"identity": made_of, "files": target.files(), "folder": target.result.stat().st_ino}
        with Journal(target.journal, head, done, settle) as journal:
            executor.run(_work(jobs, ends, opening, journal, registry, options, listener))
        digests = hashes.digests()  # before anything else can modify the files
        ends.writer.finish()
    finally:
        ends.writer.close()
    return digests


def _resume(target: OutputFolder, made_of: dict[str, Any], listener: Listener) -> set[str]:
    """Return the tensors that an earlier run of the same plan finished, or else start over with an empty folder."""
    record = read_journal(target.journal)
    if record and record.done:
        reason = identity_difference(record.head.get("identity", {}), made_of)
        # Another folder is there if a run was killed just after swapping its result with an older OUT.
        same = target.result.is_dir() and target.result.stat().st_ino == record.head.get("folder")
        if not reason and same and target.keep(record.head["files"]):
            return set(record.done)
        reason = reason or "its files were changed"
        listener.warn(f"{target.partial}: starting over because {reason}")
    target.start()
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
        registry.kernels(),
    )
