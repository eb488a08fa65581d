"""A run: the plan's jobs done by an executor, the folder finished by post-processors and put in place whole."""

from __future__ import annotations

import graphlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api import Input, Job, MergedModel, ModelInfo, PostProcessor, Work
from mergecore.errors import InputError, MergecoreError, PluginError, RunError
from mergecore.planning import Plan
from mergecore.plugins import listed
from mergecore.registry import Registry

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
    """How to run: budget in bytes, threads, largest file in bytes, executor, and whether OUT may be replaced."""

    memory: int
    workers: int
    shard_bytes: int = SHARD_BYTES
    executor: str = "threads"
    force: bool = False


def run_plan(
    plan: Plan,
    out: Path,
    registry: Registry,
    options: Options,
    advance: Callable[[int], None],
    warn: Callable[[str], None],
) -> Path:
    """Merge a plan into a folder that appears whole or not at all.

    Args:
        plan: what to do.
        out: the output folder; its neighbour ``OUT.partial`` holds the files until they are complete.
        registry: the plugins.
        options: how to run.
        advance: told of output bytes as they are written, one thread at a time.
        warn: told of anything left out, as a sentence.

    Raises:
        InputError: OUT exists, the disk is too small, or a plugin is missing.
        RunError: something failed on the way; nothing is left behind.
    """
    check_target(plan, out, options.force)
    executor = registry.provide("executors", options.executor)()
    postprocessors = load_postprocessors(registry, warn)
    try:
        with _partial(out) as folder:
            _write(plan, folder, registry, executor, options, advance)
            model = merged_model(plan, folder, out.name, warn)
            for name, postprocessor in postprocessors.items():
                _finish(name, postprocessor, model)
            _publish(folder, out)
    except BaseException as error:
        registry.notify("on_error", error=error)
        raise
    registry.notify("after_write", folder=out)
    return out


def check_target(plan: Plan, out: Path, force: bool) -> None:
    """Refuse an output folder that is in the way, is an input, or does not fit on the disk."""
    if any(out.resolve() == checkpoint.folder.resolve() for checkpoint in plan.checkpoints):
        raise InputError(f"{out}: is one of the models to merge; give another output folder")
    if out.is_file():
        raise InputError(f"{out}: is a file; give the name of a folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())) and not force:
        raise InputError(f"{out}: exists already; give another folder, or --force to replace it")
    parent = next(path for path in out.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    if free < plan.bytes_out:
        raise InputError(
            f"{parent}: has {free / 1e9:.1f} GB free, the result needs {plan.bytes_out / 1e9:.1f} GB; make room"
        )


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """A fresh folder beside the target; whatever is in it is removed when the run fails."""
    folder = out.absolute().parent / f"{out.name}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        where = error.filename or folder
        raise RunError(f"{where}: {error.strerror or error}; nothing was written to {out}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, out: Path) -> None:
    """Move the finished folder to its name; a folder that it replaces stays until then."""
    old = out.absolute().parent / f"{out.name}.replaced"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(folder, out)
    shutil.rmtree(old, ignore_errors=True)


def _write(
    plan: Plan, folder: Path, registry: Registry, executor: Any, options: Options, advance: Callable[[int], None]
) -> None:
    writer = registry.provide("writers", "safetensors")(folder, plan.tensors, options.shard_bytes)
    turn = threading.Lock()

    def read(item: Input, start: int, out: Any) -> None:
        plan.checkpoints[item.model].read(item.tensor, start, out)

    def advanced(count: int) -> None:
        with turn:
            advance(count)

    def done(job: Job) -> None:
        with turn:
            registry.notify("after_tensor", name=job.name, info=job.info)

    try:
        executor.run(Work(plan.jobs, read, writer.write, advanced, done, options.memory, options.workers))
    finally:
        writer.close()


def load_postprocessors(registry: Registry, warn: Callable[[str], None]) -> dict[str, PostProcessor]:
    """Every installed post-processor, each after those that it names; a broken one is left out with a warning."""
    found: dict[str, PostProcessor] = {}
    for name in dict.fromkeys(plugin.name for plugin in listed("postprocessors")):
        try:
            found[name] = registry.provide("postprocessors", name)()
        except Exception as error:
            warn(f"post-processor {name!r} is left out of this run: {error}")
    if "config" not in found:
        warn("no config.json will be written: pip install mergecore-config")
    order = graphlib.TopologicalSorter({name: set(item.after) & set(found) for name, item in found.items()})
    try:
        return {name: found[name] for name in order.static_order()}
    except graphlib.CycleError as error:
        circle = ", ".join(map(repr, dict.fromkeys(error.args[1])))
        raise PluginError(f"the post-processors {circle} each want to run after the other: uninstall one") from None


def _finish(name: str, postprocessor: PostProcessor, model: MergedModel) -> None:
    try:
        postprocessor.run(model)
    except (OSError, MergecoreError):
        raise
    except Exception as error:
        owner = next(plugin for plugin in listed("postprocessors") if plugin.name == name)
        raise RunError(
            f"{owner} failed ({type(error).__name__}: {error}): pip uninstall {owner.distribution}"
        ) from error


def merged_model(plan: Plan, folder: Path, name: str, warn: Callable[[str], None]) -> MergedModel:
    """What post-processors are told of a plan's result."""
    return MergedModel(
        name=name,
        folder=folder,
        recipe=plan.recipe.text,
        method=plan.recipe.method,
        method_doc=plan.method.__doc__ or "",
        models=tuple(ModelInfo(item.reference, item.folder, item.config) for item in plan.checkpoints),
        donor=plan.donor,
        architecture=plan.architecture.name,
        config=plan.config,
        tensors=plan.tensors,
        base=plan.donor if plan.recipe.base_model else None,
        tokenizer_files=plan.tokenizer_files,
        warn=warn,
    )
