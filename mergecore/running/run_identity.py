"""All that decides a result's bytes, as plain values: a run that was cut short goes on while none of it has changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mergecore.api import Job
from mergecore.discovery import Registry
from mergecore.planning import Plan

COMPUTING = ("mergecore", "numpy", "torch")
"""Distributions whose versions count whatever the recipe says."""


def identity(plan: Plan, registry: Registry, shard_bytes: int) -> dict[str, Any]:
    """What must be the same for two runs to write the same files; executor, threads and tiles change nothing."""
    return {
        **inputs(plan),
        "packages": packages(registry, *COMPUTERS),
        "code": {item.recipe.method: _code(item.method) for item in (plan, *plan.stages.values())},
        "layout": {"--shard-size": shard_bytes},
        "recipe": _recipe(plan),
    }


def inputs(plan: Plan) -> dict[str, Any]:
    """What must be the same for two plans to see the same tensors in models of the same references."""
    return {
        "files": dict(_files(plan)),
        "vocabulary": {
            f"the tokens of the models of stage {name!r}" if name else "the models' tokens": _rows(item)
            for name, item in {"": plan, **plan.stages}.items()
        },
        "stages": {name: _recipe(item) for name, item in plan.stages.items()},
    }


def plan_digest(plan: Plan) -> str:
    """A digest of what a run will compute, wherever the models are: every tensor, its inputs and parameters."""
    names = [*plan.stages, *(checkpoint.reference for checkpoint in plan.models)]
    numbers = {name: number for number, name in enumerate(names)}
    found = []
    for item in (plan, *plan.stages.values()):
        models = [[numbers[checkpoint.reference], checkpoint.made_of] for checkpoint in item.checkpoints]
        found.append([_jobs(item, models), _rows(item)])
    return _digest(found)


def _jobs(plan: Plan, models: Sequence[Any]) -> str:
    return _digest([repr(plan.architecture), *(_job(job, models) for job in plan.jobs)])


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In words, what changed from one identity to another; empty: nothing."""
    if before == now:
        return ""
    words = {
        "packages": "{name} went from {old} to {new}",
        "files": "{name} changed",
        "code": "the code of method {name!r} changed",
        "layout": "{name} changed",
        "vocabulary": "{name} changed",
        "stages": "the recipe of stage {name!r} changed",
    }
    changes = [
        text.format(name=name, old=old, new=now[part][name])
        for part, text in words.items()
        for name, old in before.get(part, {}).items()
        if name in now[part] and now[part][name] != old
    ]
    return " and ".join(changes) or "the recipe changed"


def _files(plan: Plan) -> Iterator[tuple[str, list[Any]]]:
    """What tells that weight files are the same: on the Hub the commit, wherever and since when they are cached."""
    for checkpoint in plan.models:
        hub = checkpoint.snapshot
        for path, stamp in checkpoint.stamps.items():
            if hub:
                yield f"{hub.repo}/{path.name}", [stamp.size, hub.commit]
            else:
                yield str(path.resolve()), [stamp.size, stamp.mtime_ns]
    for shard in plan.shards:
        yield f"{shard.snapshot.repo}/{shard.name}", [shard.size, shard.snapshot.commit]


COMPUTERS = ("methods", "readers", "writers", "tokenizers", "adapters")
"""The kinds of plugins that have a hand in the tensors' bytes."""


def packages(registry: Registry, *kinds: str) -> dict[str, str]:
    """Versions by distribution: core, torch, and of the plugins of these kinds with what they need of mergecore."""
    owners = registry.used(*kinds)
    names = {
        re.split(r"[^\w.-]", line, maxsplit=1)[0] for owner in owners for line in _requirements(owner.distribution)
    }
    needed = {name for name in names if name.startswith("mergecore")} | set(COMPUTING)
    return {name: _version(name) for name in needed} | {owner.distribution: owner.version for owner in owners}


def _requirements(distribution: str) -> list[str]:
    """What a distribution cannot do without; its extras list packages that it never calls."""
    try:
        return [line for line in metadata.requires(distribution) or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:  # a module on the path that nobody installed
        return []


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def _code(method: type) -> str:
    """A digest of the module that a method is in: it may be edited without a new version."""
    file = getattr(sys.modules.get(method.__module__), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _recipe(plan: Plan) -> str:
    """A digest of all jobs; a stage among the models goes by its reference, and has a digest of its own."""
    models = [
        ["stage", item.reference] if item.reference in plan.stages else [item.origin, item.made_of]
        for item in plan.checkpoints
    ]
    return _jobs(plan, models)


def _job(job: Job, models: Sequence[Any]) -> list[Any]:
    parameters = job.method and {
        field.name: getattr(job.method, field.name)
        for field in dataclasses.fields(job.method)  # type: ignore[arg-type]
    }
    inputs = [[models[item.model], item.tensor, item.info.dtype, item.info.shape] for item in job.inputs]
    return [job.name, job.info.dtype, job.info.shape, inputs, parameters, job.has_base, job.seed]


def _rows(plan: Plan) -> str:
    """A digest of where rows come from: the models' tokenizers decide it, whose files are no weights."""
    return hashlib.sha256(plan.rows.own.tobytes() + plan.rows.common.tobytes()).hexdigest() if plan.rows else ""


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()
