"""Make the plan: every output tensor with its inputs and parameters, using only the headers of the models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mergecore.api import BLOCK, FLOATS, Evaluation, Job, Method, Tile
from mergecore.api.files import TORCH_NAMES, common_dtype
from mergecore.definitions import with_keys
from mergecore.discovery import Registry, find_plugin
from mergecore.errors import InputError, MergecoreError, PluginError, RecipeError, nearest
from mergecore.models import (
    Checkpoint,
    LocatedModel,
    check_vocabularies,
    find_adapter,
    fit_checkpoints,
    locate_model,
    open_model,
    recipe_definitions,
    split_adapters,
)
from mergecore.planning.config_notes import config_notes
from mergecore.planning.job_builder import JobBuilder
from mergecore.planning.layer_config import layer_config, tie_config
from mergecore.planning.licenses import license_notes
from mergecore.planning.matching import Matcher
from mergecore.planning.parameter_values import ParameterValues
from mergecore.planning.plan import Plan
from mergecore.planning.stage_checkpoint import open_stage, plan_adapted
from mergecore.planning.vocabulary import align
from mergecore.recipes import Lock, Recipe, parse_evaluations, standalone

__all__ = ["Plan", "make_plan"]


Opening = Callable[[str, Registry], Checkpoint]
"""A function that opens a model reference from a recipe."""


def make_plan(
    recipe: Recipe, registry: Registry, memory: int, keep: Sequence[str] = (), opening: Opening | None = None
) -> Plan:
    """Plan a recipe.

    Args:
        recipe: the loaded recipe.
        registry: the plugins.
        memory: memory budget in bytes.
        keep: names of stages to write as well.
        opening: opens the models, for tools that do not use model folders.

    Raises:
        InputError: if the recipe, a model, or a plugin is invalid.
    """
    models = _Models(registry, recipe.lock, opening)
    try:
        plan = _plan_of(recipe, models)
        kept = {name: models.kept(recipe, name) for name in keep}
        for item in (plan, *kept.values()):
            _check_memory(item.jobs, memory)
        unused = recipe.others.keys() - plan.stages.keys() - kept.keys()
        notes = [f"the output does not use recipe {name!r}; --keep {name} writes it" for name in sorted(unused)]
        notes = [*plan.notes, *license_notes(plan.models), *notes]
        plan = replace(plan, kept=kept, scratch=models.scratch, notes=tuple(notes))
        parents = tuple(checkpoint.info for checkpoint in plan.parents)
        registry.notify("after_plan", tensors=plan.tensors, notes=notes, models=parents)
    except BaseException as error:
        models.close()
        if isinstance(error, MergecoreError):
            raise models.explained(error)  # noqa: B904
        raise
    return plan


def _plan_of(recipe: Recipe, models: _Models) -> Plan:
    models.registry.before_plan(recipe.place.value)
    try:
        models.registry.prefer(recipe.prefer)
    except MergecoreError as error:
        raise recipe.place.child("prefer").error(str(error)) from None
    try:
        method: type[Method] = models.registry.provide("methods", recipe.method)
    except MergecoreError as error:
        raise recipe.place.child("merge_method").error(str(error)) from None
    values = ParameterValues(recipe, method)
    checkpoints: list[Checkpoint] = []
    positions = _open_models(recipe, models, checkpoints)
    models.registry.prefer(recipe.prefer)  # again, because planning the stages can change the preference
    plan = _plan(recipe, models, method, values, checkpoints, positions)
    stages: dict[str, Plan] = {}
    for reference in (*recipe.stages, *(name for name in recipe.models if name in models.stages)):
        stages |= {**models.stages[reference].stages, reference: models.stages[reference]}
    source = models.sources.get((recipe.tokenizer or {}).get("source", ""))
    return replace(plan, positions=positions, stages=stages, tokenizer_source=source)


class _Models:
    """Opens each model once across all recipes, from its place in the lock file if any, and exposes stages as models.

    Attributes:
        registry: the plugins.
        stages: the plans of the stages so far, by reference.
        sources: the models used only for their tokenizers, by reference.
        scratch: temporary folder with a subfolder for each stage, which has all of its files except the weights.
    """

    def __init__(self, registry: Registry, lock: Lock | None, opening: Opening | None) -> None:
        self.registry = registry
        self.stages: dict[str, Plan] = {}
        self.sources: dict[str, LocatedModel] = {}
        self.scratch: TemporaryDirectory[str] | None = None
        self._lock, self._opening = lock, opening
        self._opened: dict[str, Checkpoint] = {}
        self._shown: dict[str, Checkpoint] = {}

    def open(self, recipe: Recipe, reference: str) -> Checkpoint:
        """Open a model or stage that a recipe refers to."""
        if reference not in self._shown:
            stage, adapters = split_adapters(reference)
            if stage not in recipe.stages:
                model = self._stored(recipe, reference)
            elif adapters:
                model = self._adapted(recipe, reference, stage, adapters)
            else:
                model = self._made(reference, recipe.stages[stage])
            self._shown[reference] = model
        return self._shown[reference]

    def _stored(self, recipe: Recipe, reference: str) -> Checkpoint:
        try:
            opened = self._open(recipe, self._where(reference))
        except InputError as error:
            hint = nearest(reference, recipe.others)
            raise recipe.place_of(reference).error(f"{error}{hint}") from None
        known = self._opened.setdefault(opened.origin, opened)
        if known is not opened:
            opened.close()
        self._check(reference, known)
        return replace(known, reference=reference)

    def _adapted(self, recipe: Recipe, reference: str, stage: str, adapters: Sequence[str]) -> Checkpoint:
        made = self.open(recipe, stage)
        try:
            found = [LocatedModel(name, find_adapter(self._where(name)), None) for name in adapters]
            for source in found:
                self._check(source.reference, source)
            plan = plan_adapted(
                self.stages[stage], made, found, self.registry, recipe_definitions(recipe.architectures)
            )
        except InputError as error:
            raise recipe.place_of(reference).error(str(error)) from None
        self._opened[reference] = plan.checkpoints[0]
        return self._shown_as(reference, plan)

    def _open(self, recipe: Recipe, reference: str) -> Checkpoint:
        if self._opening is not None:
            return self._opening(reference, self.registry)
        return open_model(reference, self.registry, recipe_definitions(recipe.architectures))

    def find(self, reference: str) -> Path:
        """Find the folder of a model used only for its tokenizer. See `find` in `mergecore.api.TokenizerRequest`."""
        source = self.sources[reference] = LocatedModel(reference, *locate_model(self._where(reference)))
        self._check(reference, source)
        return source.folder

    def _where(self, reference: str) -> str:
        return self._lock.where(reference) if self._lock else reference

    def _check(self, reference: str, model: Checkpoint | LocatedModel) -> None:
        if self._lock:
            self._lock.check_input(reference, model.folder, model.snapshot is not None)

    def kept(self, recipe: Recipe, name: str) -> Plan:
        """Return the plan for writing a named recipe separately."""
        if name not in recipe.others:
            known = f"; its stages are: {', '.join(recipe.others)}" if recipe.others else ""
            raise InputError(f"--keep {name}: the recipe has no stage with that name{known}")
        if name not in self.stages:
            self.stages[name] = _plan_of(recipe.others[name], self)
        return replace(self.stages[name], recipe=standalone(recipe.others[name]))

    def _made(self, reference: str, recipe: Recipe) -> Checkpoint:
        try:
            plan = _plan_of(recipe, self)
        except RecipeError:
            raise
        except InputError as error:
            raise recipe.place.error(str(error)) from None
        return self._shown_as(reference, plan)

    def _shown_as(self, reference: str, plan: Plan) -> Checkpoint:
        self.scratch = self.scratch or TemporaryDirectory(prefix="mergecore-")
        self.stages[reference], model = open_stage(reference, plan, Path(self.scratch.name), self.registry)
        return model

    def explained(self, error: MergecoreError) -> MergecoreError:
        """Replace the temporary folders of stages in an error message with the names of the stages."""
        if self.scratch is not None:
            error.args = tuple(str(text).replace(f"{self.scratch.name}/", "stage ") for text in error.args)
        return error

    def close(self) -> None:
        """Close all files."""
        for checkpoint in self._opened.values():
            checkpoint.close()
        if self.scratch is not None:
            self.scratch.cleanup()


def _open_models(recipe: Recipe, models: _Models, checkpoints: list[Checkpoint]) -> dict[str, int]:
    """Open the recipe's models into `checkpoints`, each folder only once. Return the index of each reference."""
    folders: dict[str, int] = {}
    positions = {}
    for reference in recipe.models:
        checkpoint = models.open(recipe, reference)
        if checkpoint.origin not in folders:
            folders[checkpoint.origin] = len(checkpoints)
            checkpoints.append(checkpoint)
        positions[reference] = folders[checkpoint.origin]
    return positions


def _plan(
    recipe: Recipe,
    models: _Models,
    method: type[Method],
    values: ParameterValues,
    checkpoints: list[Checkpoint],
    positions: dict[str, int],
) -> Plan:
    config_source = positions[recipe.base_model or recipe.models[0]]
    architecture, fitted, notes = fit_checkpoints(
        recipe_definitions(recipe.architectures), models.registry, checkpoints, config_source
    )
    aligned = align(recipe, models.registry, architecture, fitted, config_source, models.find)
    checkpoints = list(aligned.checkpoints)
    matcher = Matcher(recipe, method, architecture, checkpoints, positions, config_source)
    matcher.check_accounted()
    builder = JobBuilder(recipe, method, values, aligned)
    changes: dict[str, Any] = dict(aligned.config)
    for module, module_recipe, stacks in matcher.modules():
        if not module_recipe.whole:
            changes.update(layer_config(architecture, module, stacks, checkpoints, config_source))
        for match in matcher.matches(module, module_recipe, stacks):
            builder.add(match)
    changes.update(tied := tie_config(architecture, {job.name for job in builder.jobs}, fitted[config_source]))
    notes += [f"{key}: set to {str(value).lower()} in the result to match its weights" for key, value in tied.items()]
    changes.update(_dtype_config(builder.jobs, checkpoints[config_source].config))
    if recipe.tokenizer is None:
        notes += check_vocabularies(builder.tables, checkpoints, config_source)
    used = {(item.model, item.tensor) for job in builder.jobs for item in job.inputs}
    return Plan(
        recipe=recipe,
        method=method,
        architecture=architecture,
        checkpoints=tuple(checkpoints),
        config_source=config_source,
        jobs=tuple(builder.jobs),
        config=with_keys(checkpoints[config_source].config, changes),
        dropped=sum(len(checkpoint.tensors) for checkpoint in checkpoints) - len(used),
        notes=(
            *(note for checkpoint in checkpoints for note in checkpoint.notes),
            *notes,
            *aligned.notes,
            *builder.notes(),
            *values.notes(builder.jobs),
            *config_notes(checkpoints, config_source, set(changes)),
        ),
        rows=aligned.rows,
        tokenizer_files=aligned.files,
        evaluations=_evaluations(recipe, models.registry),
    )


def _evaluations(recipe: Recipe, registry: Registry) -> tuple[Evaluation, ...]:
    if recipe.evaluate is None:
        return ()
    try:
        find_plugin("postprocessors", "evaluate")
    except PluginError as error:
        raise recipe.evaluate.error(str(error)) from None
    return parse_evaluations(recipe.evaluate, registry)


def _dtype_config(jobs: Sequence[Job], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output's dtype under the keys that the config uses for it."""
    dtypes = {job.info.dtype for job in jobs if job.info.dtype in FLOATS}
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    return {key: TORCH_NAMES[common_dtype(dtypes)] for key in keys} if dtypes else {}


def _check_memory(jobs: Sequence[Job], memory: int) -> None:
    """Check that tensors that cannot be cut into pieces fit the memory budget."""
    for job in jobs:
        in_pieces = job.method is None or job.method.tile is Tile.ELEMENTS
        needed = 0 if in_pieces and not job.scratch_bytes else job.memory(BLOCK)
        if needed > memory:
            raise InputError(
                f"{job.name}: {type(job.method).__name__} needs {needed / 1e6:.0f} MB for this tensor, more than the"
                f" budget of {memory / 1e6:.0f} MB; use --memory {needed // 10**6 + 1}MB"
            )
