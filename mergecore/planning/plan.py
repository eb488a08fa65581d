"""What a run will do, and what post-processors are told of its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mergecore.api import Evaluation, Job, MergedModel, Method, TensorInfo, Vocabulary
from mergecore.definitions import Architecture
from mergecore.models import Checkpoint, Shard, Source, Stamp, shards_of
from mergecore.planning.stage_reader import cost, inputs_of
from mergecore.recipes import Recipe


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        recipe, method, architecture: what was asked for, found.
        checkpoints: the input models, opened, in the recipe's order.
        donor: position in `checkpoints` of the model whose config and files the output takes over.
        jobs: every output tensor, in order.
        config: config.json of the output.
        dropped: input tensors that the recipe leaves out.
        notes: what the author of the recipe should know.
        rows: where the rows of embeddings and heads come from; None: they are the models' own.
        tokenizer_files: every tokenizer file of the output, by name; None: the donor's, as they are.
        command: what of ``mergecore`` makes the result from the recipe: ``run``, or a tool that makes plans of its own;
            several words are the whole line of a tool that takes no recipe.
        tokenizer_source: the model that the tokenizer is taken from, if it is not one of those merged.
        evaluations: what is measured of the result.
        positions: the place in `checkpoints` of each model reference of the recipe.
        stages: by reference, the plan of each recipe that stands where a model does, here or in another stage.
        kept: the plans of the stages that are written too, by name.
        scratch: holds a folder for each stage with all but its weights.
    """

    recipe: Recipe
    method: type[Method]
    architecture: Architecture
    checkpoints: tuple[Checkpoint, ...]
    donor: int
    jobs: tuple[Job, ...]
    config: Mapping[str, Any]
    dropped: int
    notes: tuple[str, ...]
    rows: Vocabulary | None = None
    tokenizer_files: Mapping[str, bytes] | None = None
    command: str = "run"
    tokenizer_source: Source | None = None
    evaluations: tuple[Evaluation, ...] = ()
    positions: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, Plan] = field(default_factory=dict)
    kept: Mapping[str, Plan] = field(default_factory=dict)
    scratch: TemporaryDirectory[str] | None = None

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """The output's tensors, in order."""
        return {job.name: job.info for job in self.jobs}

    @property
    def bytes_in(self) -> int:
        """Bytes of the models' files that the output is made of, with all that its stages read to make theirs once."""
        found = (cost(*item) for job in self.jobs for item in inputs_of(job, self.checkpoints))
        return sum(item.once + item.each for item in found)

    @property
    def bytes_out(self) -> int:
        return sum(job.info.nbytes for job in self.jobs)

    @property
    def models(self) -> list[Checkpoint]:
        """Every model in files that the output and its stages are made of."""
        found = {item.reference: item for item in _every(self) if item.reference not in self.stages}
        return list(found.values())

    @property
    def parents(self) -> list[Checkpoint]:
        """Every model in files that the output and the kept stages are made of."""
        found = {item.reference: item for plan in (self, *self.kept.values()) for item in plan.models}
        return list(found.values())

    @property
    def stamps(self) -> dict[Path, Stamp]:
        """The models' weight files as they were when they were opened."""
        local = {path: stamp for checkpoint in self.models for path, stamp in checkpoint.stamps.items()}
        return local | {shard.path: shard.stamp for shard in self.shards if shard.stamp}

    @cached_property
    def shards(self) -> list[Shard]:
        """The weight files on the Hub that the jobs read, in no other order than the jobs'."""
        inputs = dict.fromkeys((item.model, item.tensor) for job in self.jobs for item in job.inputs)
        readers = ((self.checkpoints[model].readers[tensor], tensor) for model, tensor in inputs)
        return list(dict.fromkeys(shard for reader, tensor in readers for shard in shards_of(reader, tensor)))

    @property
    def download(self) -> int:
        """Bytes of weights that a run has to fetch from the Hub first."""
        return sum(shard.size for shard in self.shards if not shard.here)

    def close(self) -> None:
        """Let go of the input files."""
        every = (model for plan in (self, *self.kept.values()) for model in _every(plan))
        for file in {id(file): file for model in every for file in model.files}.values():
            file.close()
        if self.scratch is not None:
            self.scratch.cleanup()


def merged_model(plan: Plan, folder: Path, name: str, warn: Callable[[str], None]) -> MergedModel:
    """What post-processors are told of a plan's result."""
    made: dict[str, MergedModel] = {}
    for reference, stage in plan.stages.items():  # each after those that it is made of
        place = next(item.folder for item in _every(plan) if item.reference == reference)
        made[reference] = _merged(stage, place, reference, warn, made)
    return _merged(plan, folder, name, warn, made)


def _every(plan: Plan) -> Iterator[Checkpoint]:
    for item in (plan, *plan.stages.values()):
        yield from item.checkpoints


def _merged(
    plan: Plan, folder: Path, name: str, warn: Callable[[str], None], stages: Mapping[str, MergedModel]
) -> MergedModel:
    return MergedModel(
        name=name,
        folder=folder,
        recipe=plan.recipe.text,
        method=plan.recipe.method,
        method_doc=plan.method.__doc__ or "",
        models=tuple(replace(item.info, stage=stages.get(item.reference)) for item in plan.checkpoints),
        donor=plan.donor,
        architecture=plan.architecture.name,
        config=plan.config,
        tensors=plan.tensors,
        base=plan.donor if plan.recipe.base_model else None,
        command=plan.command,
        tokenizer_files=plan.tokenizer_files,
        evaluations=plan.evaluations,
        warn=warn,
    )
