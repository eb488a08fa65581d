"""Everything that determines the bytes of a result. An interrupted run resumes only if none of it has changed."""

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
"""Distributions whose versions matter for every recipe."""


def run_identity(plan: Plan, registry: Registry, shard_bytes: int) -> dict[str, Any]:
    """Return the data that must match for two runs to write the same files, regardless of executor and threads."""
    return {
        **input_identity(plan),
        "packages": packages(registry, *COMPUTERS),
        "code": {item.recipe.method: _code(item.method) for item in (plan, *plan.stages.values())},
        "layout": {"--shard-size": shard_bytes},
        "recipe": _recipe(plan),
    }


def input_identity(plan: Plan) -> dict[str, Any]:
    """Return the data that must match for two plans with the same model references to read the same tensors."""
    return {
        "files": dict(_files(plan)),
        "vocabulary": {
            f"the vocabulary of stage {name!r}" if name else "the vocabulary of the models": _rows(item)
            for name, item in {"": plan, **plan.stages}.items()
        },
        "stages": {name: _recipe(item) for name, item in plan.stages.items()},
    }


def plan_digest(plan: Plan) -> str:
    """Return a digest of every tensor with its inputs and parameters. It does not depend on where the models are."""
    names = [*plan.stages, *(checkpoint.reference for checkpoint in plan.models)]
    numbers = {name: number for number, name in enumerate(names)}
    found = []
    for item in (plan, *plan.stages.values()):
        models = [[numbers[checkpoint.reference], checkpoint.made_of] for checkpoint in item.checkpoints]
        found.append([_jobs(item, models), _rows(item)])
    return _digest(found)


BATCH = 1000
"""Number of jobs to turn into JSON at a time."""


def _jobs(plan: Plan, models: Sequence[Any]) -> str:
    """Return the digest of a list with the architecture and all jobs, without holding it in memory."""
    digest = hashlib.sha256(_json([repr(plan.architecture)])[:-1])
    for start in range(0, len(plan.jobs), BATCH):
        parameters: dict[int, Any] = {}
        batch = [_job(job, models, parameters) for job in plan.jobs[start : start + BATCH]]
        digest.update(b", " + _json(batch)[1:-1])
    digest.update(b"]")
    return digest.hexdigest()


def identity_difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Describe what changed from one identity to another. Return an empty string if nothing did."""
    if before == now:
        return ""
    words = {
        "packages": "{name} changed from {old} to {new}",
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
    """Yield data that identifies weight files. For files from the Hub, this is the commit, not the path or time."""
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
"""The kinds of plugins that affect the bytes of tensors."""


def packages(registry: Registry, *kinds: str) -> dict[str, str]:
    """Return the versions of core, torch, the plugins of these kinds, and the mergecore packages they depend on."""
    owners = registry.used(*kinds)
    names = {
        re.split(r"[^\w.-]", line, maxsplit=1)[0] for owner in owners for line in _requirements(owner.distribution)
    }
    needed = {name for name in names if name.startswith("mergecore")} | set(COMPUTING)
    return {name: _version(name) for name in needed} | {owner.distribution: owner.version for owner in owners}


def _requirements(distribution: str) -> list[str]:
    """Return the requirements of a distribution without its extras, which it does not need."""
    try:
        return [line for line in metadata.requires(distribution) or [] if "extra ==" not in line]
    except metadata.PackageNotFoundError:  # a module on the path that is not installed
        return []


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def _code(method: type) -> str:
    """Return a digest of the module that defines a method, because it can change without a new version."""
    file = getattr(sys.modules.get(method.__module__), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _recipe(plan: Plan) -> str:
    """Return a digest of all jobs. A stage among the models is identified by reference and has its own digest."""
    models = [
        ["stage", item.reference] if item.reference in plan.stages else [item.origin, item.made_of]
        for item in plan.checkpoints
    ]
    return _jobs(plan, models)


def _job(job: Job, models: Sequence[Any], parameters: dict[int, Any]) -> list[Any]:
    """Return a job as JSON-compatible values. `parameters` keeps those of methods that several jobs share."""
    if id(job.method) not in parameters:
        parameters[id(job.method)] = job.method and {
            field.name: getattr(job.method, field.name)
            for field in dataclasses.fields(job.method)  # type: ignore[arg-type]
        }
    inputs = [[models[item.model], item.tensor, item.info.dtype, item.info.shape] for item in job.inputs]
    return [job.name, job.info.dtype, job.info.shape, inputs, parameters[id(job.method)], job.has_base, job.seed]


def _rows(plan: Plan) -> str:
    """Return a digest of the sources of rows, because they depend on tokenizer files, not on weight files."""
    return hashlib.sha256(plan.rows.own.tobytes() + plan.rows.common.tobytes()).hexdigest() if plan.rows else ""


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value)).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=repr).encode()
