"""The plan of a run, and the description of its result for post-processors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mergecore.api import Evaluation, Job, MergedModel, Method, TensorInfo, Vocabulary
from mergecore.definitions import Architecture
from mergecore.models import Checkpoint, LocatedModel, Shard, Stamp, shards_of
from mergecore.planning.public_names import PublicNames
from mergecore.planning.stage_reader import inputs_of, read_cost
from mergecore.recipes import Recipe


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Attributes:
        recipe, method, architecture: the recipe, with its method and the architecture of the output.
        checkpoints: the opened input models, in the order of the recipe.
        config_source: index in `checkpoints` of the config source, whose config and other files the output uses.
        jobs: every output tensor, in order.
        config: contents of the output's config.json.
        dropped: number of input tensors that the recipe does not use.
        notes: notes for the author of the recipe.
        rows: sources of the rows of embeddings and heads. None leaves the rows of the models unchanged.
        tokenizer_files: every tokenizer file of the output, by name. None copies the files of the config source.
        command: the ``mergecore`` command that merges the recipe: ``run``, or a tool that makes its own plans. If it
            has several words, it is the whole command line of a tool that takes no recipe.
        tokenizer_source: the model that provides the tokenizer, if it is not one of the merged models.
        evaluations: the evaluations of the result.
        positions: index in `checkpoints` of each model reference in the recipe.
        stages: plans of the recipes used in place of models, here or in another stage, by reference.
        kept: plans of the stages that are also written, by name.
        scratch: temporary folder with a subfolder for each stage, which has all of its files except the weights.
    """

    recipe: Recipe
    method: type[Method]
    architecture: Architecture
    checkpoints: tuple[Checkpoint, ...]
    config_source: int
    jobs: tuple[Job, ...]
    config: Mapping[str, Any]
    dropped: int
    notes: tuple[str, ...]
    rows: Vocabulary | None = None
    tokenizer_files: Mapping[str, bytes] | None = None
    command: str = "run"
    tokenizer_source: LocatedModel | None = None
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
        """Bytes of the model files to read, counting the reads of each stage once."""
        found = (read_cost(*item) for job in self.jobs for item in inputs_of(job, self.checkpoints))
        return sum(item.once + item.each for item in found)

    @property
    def bytes_out(self) -> int:
        return sum(job.info.nbytes for job in self.jobs)

    @property
    def models(self) -> list[Checkpoint]:
        """Every model in files that the output and its stages are merged from."""
        found = {item.reference: item for item in _every(self) if item.reference not in self.stages}
        return list(found.values())

    @property
    def parents(self) -> list[Checkpoint]:
        """Every model in files that the output and the kept stages are merged from."""
        found = {item.reference: item for plan in (self, *self.kept.values()) for item in plan.models}
        return list(found.values())

    @property
    def reads(self) -> list[Path]:
        """Every file and folder that the run reads, for a check that the output replaces none of them."""
        recipes = [self.recipe, *(stage.recipe for stage in self.stages.values())]
        found = [path for model in self.models for path in (*model.folders, *model.stamps)]
        found += [path for recipe in recipes for path in recipe.reads]
        found += [self.tokenizer_source.folder] if self.tokenizer_source else []
        values = (value for item in self.evaluations for value in vars(item.evaluator).values())
        return found + [part for value in values for part in (value if isinstance(value, tuple) else [value])
                        if isinstance(part, Path)]  # fmt: skip

    @cached_property
    def public(self) -> PublicNames:
        """The names of local models in the files of the result, which must not contain private paths."""
        return PublicNames.of_recipe(self.recipe, [self.tokenizer_source.reference] if self.tokenizer_source else [])

    @property
    def stamps(self) -> dict[Path, Stamp]:
        """Stamps of the models' weight files from when they were opened."""
        local = {path: stamp for checkpoint in self.models for path, stamp in checkpoint.stamps.items()}
        return local | {shard.path: shard.stamp for shard in self.shards if shard.stamp}

    @cached_property
    def shards(self) -> list[Shard]:
        """The weight files on the Hub that the jobs read, in the order of the jobs."""
        inputs = dict.fromkeys((item.model, item.tensor) for job in self.jobs for item in job.inputs)
        readers = ((self.checkpoints[model].readers[tensor], tensor) for model, tensor in inputs)
        return list(dict.fromkeys(shard for reader, tensor in readers for shard in shards_of(reader, tensor)))

    @property
    def download(self) -> int:
        """Bytes of weights that a run must download from the Hub first."""
        return sum(shard.size for shard in self.shards if not shard.here)

    def close(self) -> None:
        """Close the input files."""
        every = (model for plan in (self, *self.kept.values()) for model in _every(plan))
        for file in {id(file): file for model in every for file in model.files}.values():
            file.close()
        if self.scratch is not None:
            self.scratch.cleanup()


def merged_model(plan: Plan, folder: Path, name: str, warn: Callable[[str], None]) -> MergedModel:
    """Return the description of a plan's result for post-processors."""
    made: dict[str, MergedModel] = {}
    for reference, stage in plan.stages.items():  # in dependency order
        place = next(item.folder for item in _every(plan) if item.reference == reference)
        made[reference] = _merged(stage, place, reference, warn, made, plan.public)
    return _merged(plan, folder, name, warn, made, plan.public)


def _every(plan: Plan) -> Iterator[Checkpoint]:
    for item in (plan, *plan.stages.values()):
        yield from item.checkpoints


def _merged(
    plan: Plan,
    folder: Path,
    name: str,
    warn: Callable[[str], None],
    stages: Mapping[str, MergedModel],
    public: PublicNames,
) -> MergedModel:
    return MergedModel(
        name=name,
        folder=folder,
        recipe=public.text(plan.recipe.text),
        method=plan.recipe.method,
        method_doc=plan.method.__doc__ or "",
        models=tuple(
            replace(item.info, stage=stages.get(item.reference), name=public.reference(item.reference))
            for item in plan.checkpoints
        ),
        config_source=plan.config_source,
        architecture=plan.architecture.name,
        config=plan.config,
        tensors=plan.tensors,
        base=plan.positions.get(plan.recipe.base_model, plan.config_source) if plan.recipe.base_model else None,
        command=public.text(plan.command),
        tokenizer_files=plan.tokenizer_files,
        evaluations=plan.evaluations,
        warn=warn,
    )
