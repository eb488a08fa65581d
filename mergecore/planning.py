"""The plan: every output tensor with its inputs and parameters, made from headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mergecore.agreement import model_notes
from mergecore.api import BLOCK, FLOATS, Evaluation, Input, Job, Method, TensorInfo, Tile, Vocabulary
from mergecore.api.files import TORCH_NAMES, common_dtype
from mergecore.architecture import Architecture
from mergecore.config import with_keys
from mergecore.definitions import fit
from mergecore.errors import InputError, MergecoreError, ModelError, PluginError
from mergecore.evaluations import parse_evaluations
from mergecore.matching import Match, Matcher
from mergecore.plugins import find
from mergecore.recipe import Recipe
from mergecore.registry import Registry
from mergecore.slicing import layer_config, tie_config
from mergecore.sources import Checkpoint, open_model
from mergecore.stamps import Stamp
from mergecore.tokens import VOCABULARY_CURE, check_vocabularies
from mergecore.values import Values
from mergecore.vocabulary import Aligned, align


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
        positions: the place in `checkpoints` of each model reference of the recipe.
        rows: where the rows of embeddings and heads come from; None: they are the models' own.
        tokenizer_files: every tokenizer file of the output, by name; None: the donor's, as they are.
        evaluations: what is measured of the result.
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
    positions: Mapping[str, int]
    rows: Vocabulary | None = None
    tokenizer_files: Mapping[str, bytes] | None = None
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """The output's tensors, in order."""
        return {job.name: job.info for job in self.jobs}

    @property
    def bytes_in(self) -> int:
        return sum(item.info.nbytes for job in self.jobs for item in job.inputs)

    @property
    def bytes_out(self) -> int:
        return sum(job.info.nbytes for job in self.jobs)

    @property
    def stamps(self) -> dict[Path, Stamp]:
        """The models' weight files as they were when they were opened."""
        return {path: stamp for checkpoint in self.checkpoints for path, stamp in checkpoint.stamps.items()}

    def close(self) -> None:
        """Let go of the input files."""
        for checkpoint in self.checkpoints:
            checkpoint.close()


def make_plan(recipe: Recipe, registry: Registry, memory: int) -> Plan:
    """Plan a recipe.

    Args:
        recipe: as loaded.
        registry: the plugins.
        memory: bytes that may be in flight.

    Raises:
        InputError: whatever is wrong with the recipe, the models or the plugins.
    """
    registry.before_plan(recipe.place.value)
    try:
        method: type[Method] = registry.provide("methods", recipe.method)
    except MergecoreError as error:
        raise recipe.place.child("merge_method").error(str(error)) from None
    values = Values(recipe, method)
    checkpoints: list[Checkpoint] = []
    try:
        positions = _open_models(recipe, registry, checkpoints)
        plan = _plan(recipe, registry, method, values, checkpoints, positions)
        _check_memory(plan.jobs, memory)
        models = tuple(checkpoint.info for checkpoint in checkpoints)
        registry.notify("after_plan", tensors=plan.tensors, notes=list(plan.notes), models=models)
    except BaseException:
        for checkpoint in checkpoints:
            checkpoint.close()
        raise
    return plan


def _open_models(recipe: Recipe, registry: Registry, checkpoints: list[Checkpoint]) -> dict[str, int]:
    """Open the recipe's models into `checkpoints`, a folder that is named twice once; gives the place of each there."""
    folders: dict[Any, int] = {}
    positions = {}
    for reference in recipe.models:
        try:
            place = recipe.lock.where(reference) if recipe.lock else reference
            checkpoint = replace(open_model(place, registry), reference=reference)
        except ModelError as error:
            raise recipe.place_of(reference).error(str(error)) from None
        folder = checkpoint.folder.resolve()
        if folder in folders:
            checkpoint.close()
        else:
            folders[folder] = len(checkpoints)
            checkpoints.append(checkpoint)
        positions[reference] = folders[folder]
    if recipe.lock:
        recipe.lock.check_inputs(checkpoints)
    return positions


def _plan(
    recipe: Recipe,
    registry: Registry,
    method: type[Method],
    values: Values,
    checkpoints: list[Checkpoint],
    positions: dict[str, int],
) -> Plan:
    donor = positions[recipe.base_model or recipe.models[0]]
    architecture, fitted, notes = fit(recipe, registry, checkpoints, donor)
    aligned = align(recipe, registry, architecture, fitted, donor)
    checkpoints = list(aligned.checkpoints)
    matcher = Matcher(recipe, method, architecture, checkpoints, positions, donor)
    matcher.check_accounted()
    builder = _Jobs(recipe, method, values, aligned)
    changes: dict[str, Any] = dict(aligned.config)
    for module, module_recipe, stacks in matcher.modules():
        if not module_recipe.whole:
            changes.update(layer_config(architecture, module, stacks, checkpoints, donor))
        for match in matcher.matches(module, module_recipe, stacks):
            builder.add(match)
    changes.update(tied := tie_config(architecture, {job.name for job in builder.jobs}, fitted[donor]))
    notes += [f"{key}: is {str(value).lower()} in the result, as its weights are" for key, value in tied.items()]
    changes.update(_dtype_config(builder.jobs, checkpoints[donor].config))
    if recipe.tokenizer is None:
        notes += check_vocabularies(builder.tables, checkpoints, donor)
    used = {(item.model, item.tensor) for job in builder.jobs for item in job.inputs}
    return Plan(
        recipe=recipe,
        method=method,
        architecture=architecture,
        checkpoints=tuple(checkpoints),
        donor=donor,
        jobs=tuple(builder.jobs),
        config=with_keys(checkpoints[donor].config, changes),
        dropped=sum(len(checkpoint.tensors) for checkpoint in checkpoints) - len(used),
        notes=(
            *notes,
            *aligned.notes,
            *builder.notes(),
            *values.notes(builder.jobs),
            *model_notes(checkpoints, donor, set(changes)),
        ),
        positions=positions,
        rows=aligned.rows,
        tokenizer_files=aligned.files,
        evaluations=_evaluations(recipe, registry),
    )


def _evaluations(recipe: Recipe, registry: Registry) -> tuple[Evaluation, ...]:
    if recipe.evaluate is None:
        return ()
    try:
        find("postprocessors", "evaluate")
    except PluginError as error:
        raise recipe.evaluate.error(str(error)) from None
    return parse_evaluations(recipe.evaluate, registry)


@dataclass
class _Jobs:
    """Turns matches into jobs: shapes and dtypes checked, parameters resolved."""

    recipe: Recipe
    method: type[Method]
    values: Values
    aligned: Aligned
    jobs: list[Job] = field(default_factory=list)
    tables: list[Job] = field(default_factory=list)
    """The jobs of weights with one row a token."""
    _lacking: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def add(self, match: Match) -> None:
        """Append the job of one output weight."""
        inputs = tuple(
            Input(part.model, part.tensor, self.aligned.checkpoints[part.model].tensors[part.tensor])
            for part in match.parts
        )
        self._check_shapes(match, inputs)
        if match.lacking:
            self._lacking[match.lacking] += 1
        self.jobs.append(self._job(match, inputs))
        if match.weight.vocabulary_axis == 0:
            self.tables.append(self.jobs[-1])

    def _job(self, match: Match, inputs: tuple[Input, ...]) -> Job:
        name, shape = match.weight.name, inputs[0].info.shape
        dtypes = {self.aligned.dtypes.get((item.model, item.tensor), item.info.dtype) for item in inputs}
        if not dtypes <= set(FLOATS):
            if len(dtypes) > 1:
                raise ModelError(f"{name}: is stored as {' and '.join(sorted(dtypes))} in different models")
            return Job(name, inputs[0].info, inputs, None)
        info = TensorInfo(self.recipe.dtype or common_dtype(dtypes), shape)
        if self._is_lone(match):
            return Job(name, info, inputs[:1], None)
        method = self.values.method_for(match)
        return Job(name, info, inputs, method, match.subtracts(self.method), self.recipe.seed)

    def _check_shapes(self, match: Match, inputs: Sequence[Input]) -> None:
        shapes: dict[tuple[int, ...], str] = {}
        for item in inputs:
            shapes.setdefault(item.info.shape, self.aligned.checkpoints[item.model].reference)
        if len(shapes) > 1:
            found = ", ".join(f"{list(shape)} in {model}" for shape, model in shapes.items())
            cure = "only equal shapes can be merged" if match.weight.vocabulary_axis is None else VOCABULARY_CURE
            raise ModelError(f"{match.weight.name}: the models differ in shape: {found}; {cure}")

    def _is_lone(self, match: Match) -> bool:
        """Whether a weight that only one model has is copied from it."""
        if match.alone:
            return True
        low = self.method.models[0]
        subtracted = match.subtracts(self.method)
        if len(match.parts) - subtracted >= low and not match.lacks_base:
            return False
        if len(match.parts) == 1 and (subtracted or self.method.copies_lone):
            return True
        lacking = ", ".join(match.lacking)
        raise ModelError(
            f"{match.weight.name}: is missing in {lacking}, and method {self.recipe.method!r} cannot do without;"
            " use models that all have it"
        )

    def notes(self) -> list[str]:
        """What is unusual about the jobs."""
        return [
            f"{count} optional weight(s) missing in {', '.join(models)}: made from the models that have them"
            for models, count in self._lacking.items()
        ]


def _dtype_config(jobs: Sequence[Job], config: Mapping[str, Any]) -> dict[str, Any]:
    """The output's dtype under the keys that the config uses for it."""
    dtypes = {job.info.dtype for job in jobs if job.info.dtype in FLOATS}
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    return {key: TORCH_NAMES[common_dtype(dtypes)] for key in keys} if dtypes else {}


def _check_memory(jobs: Sequence[Job], memory: int) -> None:
    """A tensor that its method wants whole must fit the budget."""
    for job in jobs:
        needed = job.memory(BLOCK) if job.method is not None and job.method.tile is not Tile.ELEMENTS else 0
        if needed > memory:
            raise InputError(
                f"{job.name}: {type(job.method).__name__} needs {needed / 1e6:.0f} MB for it at one time, more than the"
                f" {memory / 1e6:.0f} MB allowed; give --memory {needed // 10**6 + 1}MB"
            )
