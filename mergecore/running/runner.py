"""Run a plan: an executor does the jobs, post-processors add files, and the folder is moved into place atomically."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergecore.api import Executor, MergedModel, PostProcessor
from mergecore.discovery import Registry, load_postprocessors, run_after_publish, run_postprocessor
from mergecore.errors import RunError
from mergecore.models import check_unchanged
from mergecore.planning import Plan, merged_model
from mergecore.running.journal import read_journal
from mergecore.running.lock_writer import check_outputs, describe_changes, describe_run, write_lock
from mergecore.running.output_folder import OutputFolder
from mergecore.running.prefetch import prefetch
from mergecore.running.settings import Listener, Options
from mergecore.running.tensor_writing import write_tensors


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
    results = [_Result(item, OutputFolder(kept_folder(out, name), early=True)) for name, item in plan.kept.items()]
    results.append(_Result(plan, OutputFolder(out, options.file)))
    for result in results:
        result.check(options)
    run = _begin(plan, registry, options, listener, finishing)
    try:
        locks = _make_all(results, run)
        if plan.recipe.lock:  # it describes the output, which is the last result
            check_outputs(plan.recipe.lock, locks[-1]["outputs"], out)
    except BaseException as error:
        registry.notify("on_error", error=error)
        raise
    for result in results:
        registry.notify("after_write", folder=result.target.out)
    return out


def kept_folder(out: Path, name: str) -> Path:
    """Return the folder for a kept stage: ``OUT-NAME``, next to the output."""
    return OutputFolder(out).folder.with_name(f"{OutputFolder(out).folder.name}-{name}")


@dataclass(frozen=True)
class _Result:
    """A plan and the output folder for its result."""

    plan: Plan
    target: OutputFolder

    def check(self, options: Options) -> None:
        """Raise InputError if the output folder cannot be written."""
        self.target.check([*self.plan.reads, *options.reads], self.plan.bytes_out, options.force)


@dataclass(frozen=True)
class _Run:
    """What all results of a run share. `recorded` is True if they get lock files."""

    registry: Registry
    options: Options
    listener: Listener
    executor: Executor
    postprocessors: Mapping[str, PostProcessor]
    recorded: bool


def _begin(
    plan: Plan,
    registry: Registry,
    options: Options,
    listener: Listener,
    finishing: Mapping[str, PostProcessor] | None,
) -> _Run:
    """Load the executor and the post-processors before anything is written."""
    executor = registry.provide("executors", options.executor)()
    recorded = finishing is None and plan.command == "run"  # a recipe cannot reproduce the output of other tools
    if finishing is None:
        finishing = load_postprocessors(registry, listener.warn, options.without)
    return _Run(registry, options.settled(plan.recipe.lock), listener, executor, finishing, recorded)


def _make_all(results: list[_Result], run: _Run) -> list[dict[str, Any]]:
    """Make all results, publish them together, and let post-processors finish. Return the contents of the lock files.

    The run locks are held until the end, because post-processors can still replace files.
    """
    with ExitStack() as stack:
        for result in results:
            stack.enter_context(_claim(result, run))
        for result in results:
            prefetch(result.plan, run.listener.fetch)
        made = [_make(result, run) for result in results]
        for result in results:
            check_unchanged(result.plan.stamps)
            result.target.publish(run.options.force)
        for result in results:
            with suppress(OSError):
                result.target.clear()
        run.listener.published()
        for result, (model, _) in zip(results, made):
            published = replace(model, folder=result.target.folder, owns=result.target.adopt)
            for name, postprocessor in run.postprocessors.items():
                run_after_publish(name, postprocessor, published, run.registry, result.target.out)
    return [lock for _, lock in made]


@contextmanager
def _claim(result: _Result, run: _Run) -> Iterator[None]:
    """Hold the run lock of a result. If the run stops, report what the next run can resume."""
    target = result.target
    try:
        with target.hold():
            target.restore()
            result.check(run.options)  # again, because another run might have ended before this one got the lock
            with _keeping(result, run.listener):
                yield
    except OSError as error:
        where = error.filename or target.partial
        raise RunError(f"{where}: {error.strerror or error}; fix this and run again") from error


@contextmanager
def _keeping(result: _Result, listener: Listener) -> Iterator[None]:
    """If the run stops for any reason, report what the next run can resume. If nothing is finished, keep no files."""
    target = result.target
    try:
        yield
    except BaseException:
        record = read_journal(target.journal)
        if record and record.done:
            kept = f"has {len(record.done)} of {len(result.plan.jobs)} tensors"
            listener.warn(f"{target.partial}: {kept}; run the same recipe again to resume")
        else:
            target.clear()
        raise


def _make(result: _Result, run: _Run) -> tuple[MergedModel, dict[str, Any]]:
    """Write the tensors, run the post-processors, and write the lock file. Return the model and the lock's contents."""
    plan, target, options = result.plan, result.target, run.options
    digests = write_tensors(plan, target, run.registry, run.executor, options, run.listener, run.recorded)
    model = merged_model(plan, target.result, target.folder.name, run.listener.warn)
    model = replace(model, tell=run.listener.tell, memory=options.memory, choices=options.choices)
    for name, postprocessor in run.postprocessors.items():
        run_postprocessor(name, postprocessor, model, run.registry)
    if not run.recorded:
        return model, {}
    described = describe_run(plan, target.folder, run.registry, options.shard_bytes)
    if plan.recipe.lock and (text := describe_changes(plan.recipe.lock, described)):
        run.listener.warn(text)
    return model, write_lock(plan, target, described, digests, options.workers, options.hash_inputs)
