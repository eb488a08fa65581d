"""Stages as models: what a stage's plan makes is shown as one, and a stage with adapters is a stage of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergecore.api import Input, Job, Method, Reader, read_card
from mergecore.discovery import Registry, describe
from mergecore.documents import Place
from mergecore.models import Checkpoint, Source, split, with_adapter
from mergecore.planning.plan import Plan, merged_model
from mergecore.planning.stage_reader import MadeReader, cost
from mergecore.recipes import parse_recipe


def shown(reference: str, plan: Plan, scratch: Path, registry: Registry) -> tuple[Plan, Checkpoint]:
    """What a stage makes, as a model; all but its weights is written into a folder of its own.

    Args:
        reference: to the stage.
        plan: of it.
        scratch: where its folder is made.
        registry: the plugins.

    Returns:
        The plan with what post-processors had to say, and the model.
    """
    stage, adapters = split(reference)
    label = "+".join([stage.replace("/", "_"), *(Path(item).name for item in adapters)])
    count = sum(1 for _ in scratch.iterdir())
    folder = scratch / (f"{label}.{count}" if adapters else label)  # adapters in two folders may be called alike
    notes: list[str] = []
    describe(merged_model(plan, folder, reference, notes.append), registry)
    config = json.loads(json.dumps(dict(plan.config)))
    reader = MadeReader(plan.jobs, plan.checkpoints)
    readers = dict.fromkeys(reader.tensors, reader)
    model = Checkpoint(reference, folder, config, reader.tensors, readers, (), {}, card=read_card(folder))
    return replace(plan, notes=(*plan.notes, *notes)), model


class Adapter(Method):
    """Low-rank and other small changes of a model's tensors, added to them."""


def adapted(
    stage: Plan, made: Checkpoint, adapters: Sequence[Source], registry: Registry, own: Mapping[str, Any]
) -> Plan:
    """The plan of a stage with adapters; its tensors are unrounded, as those of a model in files with adapters.

    Args:
        stage: the plan of the stage.
        made: what it makes, as a model.
        adapters: where they are, in the order in which they are added.
        registry: the plugins.
        own: definitions of architectures that come before all others.

    Raises:
        ModelError: an adapter does not fit.
        PluginError: no plugin knows it.
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
        donor=0,
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
    """The adapter that was added last, as something that the stage is made of: nobody reads it by itself."""
    folder = changed.adapters[-1].folder
    readers = {name: file for file in files for name in file.tensors}
    tensors = {name: file.tensors[name] for name, file in readers.items()}
    stamps = {path: stamp for path, stamp in changed.stamps.items() if path.parent == folder}
    return Checkpoint(reference, folder, {}, tensors, readers, files, stamps, card=read_card(folder))


def _copies(checkpoint: Checkpoint) -> list[Job]:
    return [
        Job(name, info, (Input(0, name, info, cost(checkpoint.readers[name], name).memory),), None)
        for name, info in checkpoint.tensors.items()
    ]
