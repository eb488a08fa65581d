"""Expose stages as models. A stage with adapters becomes another stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergecore.api import Input, Job, Method, Reader, read_card
from mergecore.discovery import Registry, run_for_stage
from mergecore.documents import Place
from mergecore.models import Checkpoint, LocatedModel, split_adapters, with_adapter
from mergecore.planning.plan import Plan, merged_model
from mergecore.planning.stage_reader import StageReader, read_cost
from mergecore.recipes import parse_recipe


def open_stage(reference: str, plan: Plan, scratch: Path, registry: Registry) -> tuple[Plan, Checkpoint]:
    """Expose a stage as a model. Write all of its files except the weights to a folder.

    Args:
        reference: reference of the stage.
        plan: plan of the stage.
        scratch: folder to create its folder in.
        registry: the plugins.

    Returns:
        The plan, including the post-processors' notes, and the model.
    """
    stage, adapters = split_adapters(reference)
    label = "+".join([stage.replace("/", "_"), *(Path(item).name for item in adapters)])
    count = sum(1 for _ in scratch.iterdir())
    folder = scratch / (f"{label}.{count}" if adapters else label)  # adapters in different folders can share a name
    notes: list[str] = []
    run_for_stage(merged_model(plan, folder, reference, notes.append), registry)
    config = json.loads(json.dumps(dict(plan.config)))
    reader = StageReader(plan.jobs, plan.checkpoints)
    readers = dict.fromkeys(reader.tensors, reader)
    modules = plan.checkpoints[plan.config_source].modules
    model = Checkpoint(
        reference, folder, config, reader.tensors, readers, (), {}, card=read_card(folder), modules=modules
    )
    return replace(plan, notes=(*plan.notes, *notes)), model


class Adapter(Method):
    """Low-rank and other small changes that are added to a model's tensors."""


def plan_adapted(
    stage: Plan, made: Checkpoint, adapters: Sequence[LocatedModel], registry: Registry, own: Mapping[str, Any]
) -> Plan:
    """Return the plan of a stage with adapters. Its tensors are not rounded, as for a model in files with adapters.

    Args:
        stage: the plan of the stage.
        made: the stage, exposed as a model.
        adapters: the adapters, in the order to add them.
        registry: the plugins.
        own: architecture definitions that take precedence over all others.

    Raises:
        ModelError: if an adapter does not match.
        PluginError: if no plugin recognizes an adapter.
    """
    opened: list[Reader] = []
    changed, parts = made, list[Checkpoint]()
    try:
        for reference, folder, _ in adapters:
            count = len(opened)
            changed = with_adapter(changed, folder, registry, own, opened)
            parts.append(_part(reference, changed, opened[count:]))
    except BaseException:
        for file in opened:
            file.close()
        raise
    base = replace(changed, files=opened, stamps={}, adapters=())
    names = [made.reference, *(item.reference for item in adapters)]
    value = {"merge_method": "adapter", "models": [{"model": name} for name in names]}
    return replace(
        stage,
        recipe=parse_recipe(Place(value), ""),
        method=Adapter,
        checkpoints=(base, *parts),
        config_source=0,
        jobs=tuple(_copies(base)),
        config=changed.config,
        dropped=0,
        notes=tuple(f"{item.folder}: {item.summary}, changes {item.tensors} tensors" for item in changed.adapters),
        rows=None,
        tokenizer_files=None,
        tokenizer_source=None,
        evaluations=(),
        positions={name: number for number, name in enumerate(names)},
        stages={**stage.stages, made.reference: stage},
    )


def _part(reference: str, changed: Checkpoint, files: Sequence[Reader]) -> Checkpoint:
    """Return the adapter that was added last as an input of the stage. Its tensors are not read separately."""
    folder = changed.adapters[-1].folder
    readers = {name: file for file in files for name in file.tensors}
    tensors = {name: file.tensors[name] for name, file in readers.items()}
    stamps = {path: stamp for path, stamp in changed.stamps.items() if path.parent == folder}
    return Checkpoint(reference, folder, {}, tensors, readers, files, stamps, card=read_card(folder))


def _copies(checkpoint: Checkpoint) -> list[Job]:
    return [
        Job(name, info, (Input(0, name, info, read_cost(checkpoint.readers[name], name).memory),), None)
        for name, info in checkpoint.tensors.items()
    ]
