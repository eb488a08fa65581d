"""Write mergecore.lock.json, which records the inputs of a result, and compare a run with an earlier lock file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mergecore.api import TOKENIZER_FILES
from mergecore.discovery import Registry
from mergecore.errors import RunError
from mergecore.models import WHOLE, Added, Checkpoint, LocatedModel, fingerprint, matches_fingerprint, stamp_file
from mergecore.planning import Plan
from mergecore.recipes import LOCK_KEY, LOCK_NAME, LOCK_VERSION, Lock
from mergecore.running.block_hashes import Digests
from mergecore.running.output_folder import OutputFolder
from mergecore.running.run_identity import COMPUTERS, packages, plan_digest

UNLOCKED = ("README.md", "mergecore_evaluation.json", "mergecore_health.json")
"""Files of the result that are not in the lock file: users edit the first, and the others contain measurements."""


def describe_run(plan: Plan, folder: Path, registry: Registry, shard_bytes: int) -> dict[str, Any]:
    """Return everything that determines a result, for the lock file in `folder`. `write_lock` adds the files."""
    file = plan.recipe.place.file
    return {
        LOCK_KEY: LOCK_VERSION,
        "recipe": plan.public.text(plan.recipe.text),
        "recipe_file": _relative(Path(file) if file else Path("recipe.yml"), folder),
        "seed": plan.recipe.seed,
        "shard_size": shard_bytes,
        "plan": plan_digest(plan),
        "packages": dict(sorted(packages(registry, *COMPUTERS, "architectures", "postprocessors").items())),
        "instructions": _instructions(registry),
    }


def _instructions(registry: Registry) -> dict[str, str | None]:
    """Return the instruction sets of the kernels, and of torch if the run has imported it.

    The kernels have the same bits for all of them. torch multiplies and adds with one rounding only for some.
    """
    kernels, torch = registry.kernels(), sys.modules.get("torch")
    return {
        "kernels": kernels.isa if kernels else None,
        "torch": torch.backends.cpu.get_cpu_capability() if torch else None,
    }


def write_lock(
    plan: Plan, target: OutputFolder, described: Mapping[str, Any], digests: Digests, workers: int, whole: bool
) -> dict[str, Any]:
    """Write the lock file of a finished result and return its contents.

    Files without a digest are hashed in threads while the written data is synced to disk.

    Args:
        plan: the plan that was run.
        target: the result's folder.
        described: the lock without its files.
        digests: digests of files that were hashed while being written. They are ignored if a file has changed since.
        workers: number of threads.
        whole: whether to hash the models' weight files completely.
    """
    with ThreadPoolExecutor(workers) as pool:
        made = {
            path.relative_to(target.result).as_posix(): pool.submit(_made, path, digests)
            for path in sorted(target.result.rglob("*"))
            if path.is_file() and path.relative_to(target.result).as_posix() not in (LOCK_NAME, *UNLOCKED)
        }
        models = _named(plan)
        used = {
            reference: {name: pool.submit(fingerprint, path, whole) for name, path in _files(model, plan)}
            for reference, model in models.items()
        }
        target.sync()
    inputs = [
        {
            "reference": plan.public.reference(reference),
            "folder": None if model.snapshot else _relative(model.folder, target.folder),
            "adapters": [_relative(item.folder, target.folder) for item in _added(model)],
            "revision": model.snapshot.commit if model.snapshot else None,
            "files": {name: item.result() for name, item in used[reference].items()},
        }
        for reference, model in models.items()
    ]
    content = {**described, "inputs": inputs, "outputs": {name: item.result() for name, item in made.items()}}
    (target.result / LOCK_NAME).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return content


def _made(path: Path, digests: Digests) -> dict[str, Any]:
    then, digest = digests.get(path, (None, ""))
    if then and then == stamp_file(path) and then.size > WHOLE:
        return {"size": then.size, "tree": digest}
    return fingerprint(path, whole=True)


def _named(plan: Plan) -> dict[str, Checkpoint | LocatedModel]:
    """Return the models in files by reference, for the recipe and its stages, including sources of tokenizers."""
    found: dict[str, Checkpoint | LocatedModel] = {}
    for item in (plan, *plan.stages.values()):
        found |= {name: item.checkpoints[at] for name, at in item.positions.items() if name not in plan.stages}
        if item.tokenizer_source:
            found[item.tokenizer_source.reference] = item.tokenizer_source
    return found


def _files(model: Checkpoint | LocatedModel, plan: Plan) -> Iterator[tuple[str, Path]]:
    """Yield the files of a model that affect the result, with their paths relative to its folder."""
    small = [model.folder / "config.json"]
    small += [path for pattern in TOKENIZER_FILES for path in sorted(model.folder.glob(pattern))]
    weights: list[Path] = []
    if isinstance(model, Checkpoint):
        weights = [*model.stamps, *(shard.path for shard in plan.shards if shard.path.parent == model.folder)]
    for path in (*small, *weights):
        if path.is_file():
            yield Path(os.path.relpath(path, model.folder)).as_posix(), path


def _added(model: Checkpoint | LocatedModel) -> Sequence[Added]:
    return model.adapters if isinstance(model, Checkpoint) else ()


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(os.path.expanduser(path), folder)).as_posix()


def describe_changes(lock: Lock, described: Mapping[str, Any]) -> str:
    """Describe the differences between a run and its lock file. Return an empty string if there are none."""
    then, now = lock.value["packages"], described["packages"]
    changed = [f"{name} {then[name]} (now {now[name]})" for name in then.keys() & now.keys() if then[name] != now[name]]
    old, new = (value.get("instructions", {}).get("torch") for value in (lock.value, described))
    if old and new and old != new:
        changed.append(f"torch for {old} (now {new})")
    if changed:
        return f"{lock.file}: was created with {', '.join(sorted(changed))}; the result might differ in the last bits"
    if lock.value["plan"] != described["plan"]:
        return f"{lock.file}: the plan has changed, because architectures or methods have changed since then"
    return ""


def changed_since(lock: Lock, plan: Plan, registry: Registry) -> str:
    """Describe what changed since a result was created, given its recipe's plan. Return an empty string if nothing."""
    return describe_changes(lock, describe_run(plan, lock.file.parent, registry, lock.value["shard_size"]))


def check_outputs(lock: Lock, outputs: Mapping[str, Any], out: Path) -> None:
    """Raise RunError with the files of a result that differ from the lock file."""
    then = lock.value["outputs"]
    wrong = [name for name in {**then, **outputs} if not _same(out / name, then.get(name), outputs.get(name))]
    if wrong:
        raise RunError(f"{out}: was written, but these files differ from {lock.file}: {', '.join(wrong)}")


def _same(path: Path, then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    """Return whether a file of a result is the same as before. Older locks have another kind of hash."""
    if not then or not now or then.keys() == now.keys():
        return then == now
    return matches_fingerprint(path, then)
