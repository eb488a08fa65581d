"""Make the plan: every output tensor with its inputs and parameters, using only the headers of the models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mergecore.api import BLOCK, FLOATS, Evaluation, Job, Method, Tile
from mergecore.api.files import TORCH_NAMES, common_dtype
from mergecore.definitions import leaves, recipe_definitions, with_keys
from mergecore.discovery import Registry, find_plugin
from mergecore.errors import InputError, MergecoreError, PluginError, RecipeError, raise_all
from mergecore.models import (
    Checkpoint,
    check_vocabularies,
    contains,
    fit_checkpoints,
    split_adapters,
)
from mergecore.planning.announcing import announce, kernels_note
from mergecore.planning.class_errors import check_accounted, explain_classes
from mergecore.planning.input_notes import config_notes, license_notes
from mergecore.planning.job_builder import JobBuilder
from mergecore.planning.layer_config import layer_config, tie_config
from mergecore.planning.matching import Matcher
from mergecore.planning.model_opener import ModelOpener, Opening
from mergecore.planning.parameter_values import ParameterValues
from mergecore.planning.plan import Plan
from mergecore.planning.stage_checkpoint import plan_adapted
from mergecore.planning.stage_set import StageSet
from mergecore.planning.vocabulary import align
from mergecore.recipes import Lock, Recipe, parse_evaluations, standalone, with_more_errors


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
    planner = _Planner(registry, recipe.lock, opening)
    try:
        plan = planner.plan(recipe)
        kept = {name: planner.plan_kept(recipe, name) for name in keep}
        for item in (plan, *kept.values()):
            _check_memory(item.jobs, memory)
        unused = recipe.others.keys() - plan.stages.keys() - kept.keys()
        notes = [f"the output does not use recipe {name!r}; --keep {name} writes it" for name in sorted(unused)]
        notes = [*plan.notes, *license_notes(plan.models), *notes, *kernels_note()]
        kept = {name: announce(item, registry) for name, item in kept.items()}
        plan = replace(plan, kept=kept, scratch=planner.stages.scratch, notes=tuple(notes))
        plan = announce(plan, registry)
    except BaseException as error:
        planner.close()
        if isinstance(error, RecipeError) and opening is None and recipe.lock is None:
            documents = [recipe.place, *(other.place for other in recipe.others.values())]
            error = with_more_errors(error, documents, registry)
        if isinstance(error, MergecoreError):
            raise planner.stages.explain(error)  # noqa: B904
        raise
    return plan


class _Planner:
    """Plans a recipe and its stages, which other recipes see as models."""

    def __init__(self, registry: Registry, lock: Lock | None, opening: Opening | None) -> None:
        self.registry = registry
        self.models = ModelOpener(registry, lock, opening)
        self.stages = StageSet(registry)
        self._shown: dict[str, Checkpoint] = {}

    def plan(self, recipe: Recipe) -> Plan:
        """Plan a recipe, and before it every stage that it uses."""
        self.registry.before_plan(recipe.place.value)
        method = self._method(recipe)
        values = ParameterValues(recipe, method)
        checkpoints: list[Checkpoint] = []
        positions = self._open_all(recipe, checkpoints)
        self.registry.prefer(recipe.prefer)  # again, because planning the stages can change the preference
        plan = _plan(recipe, self, method, values, checkpoints, positions)
        adapted = [name for name in recipe.models if name in self.stages.plans]
        stages = self.stages.needed_by([*recipe.stages, *adapted])
        source = self.models.tokenizer_sources.get((recipe.tokenizer or {}).get("source", ""))
        return replace(plan, positions=positions, stages=stages, tokenizer_source=source)

    def plan_kept(self, recipe: Recipe, name: str) -> Plan:
        """Plan a named recipe that is written separately."""
        if name not in recipe.others:
            known = f"; its stages are: {', '.join(recipe.others)}" if recipe.others else ""
            raise InputError(f"--keep {name}: the recipe has no stage with that name{known}")
        if name not in self.stages.plans:
            self.stages.plans[name] = self.plan(recipe.others[name])
        return replace(self.stages.plans[name], recipe=standalone(recipe.others[name]))

    def close(self) -> None:
        """Close all files, and remove the temporary folder of the stages."""
        self.models.close()
        self.stages.close()

    def _method(self, recipe: Recipe) -> type[Method]:
        try:
            self.registry.prefer(recipe.prefer)
        except MergecoreError as error:
            raise recipe.place.child("prefer").error(str(error)) from None
        try:
            method: type[Method] = self.registry.provide("methods", recipe.method)
        except MergecoreError as error:
            raise recipe.place.child("merge_method").error(str(error)) from None
        return method

    def _open_all(self, recipe: Recipe, checkpoints: list[Checkpoint]) -> dict[str, int]:
        """Open the recipe's models into `checkpoints`, each folder only once. Return the index of each reference."""
        folders: dict[str, int] = {}
        positions = {}
        errors: list[RecipeError] = []
        for reference in recipe.models:
            try:
                checkpoint = self._open(recipe, reference)
            except RecipeError as error:
                errors.append(error)
                continue
            if checkpoint.origin not in folders:
                folders[checkpoint.origin] = len(checkpoints)
                checkpoints.append(checkpoint)
            positions[reference] = folders[checkpoint.origin]
        raise_all(errors)
        return positions

    def _open(self, recipe: Recipe, reference: str) -> Checkpoint:
        """Open a model or stage that a recipe refers to."""
        if reference not in self._shown:
            stage, adapters = split_adapters(reference)
            if stage not in recipe.stages:
                model = self.models.open(recipe, reference)
            elif adapters:
                model = self._open_adapted(recipe, reference, stage, adapters)
            else:
                model = self._open_stage(reference, recipe.stages[stage])
            self._shown[reference] = model
        return self._shown[reference]

    def _open_stage(self, reference: str, recipe: Recipe) -> Checkpoint:
        try:
            plan = self.plan(recipe)
        except RecipeError:
            raise
        except InputError as error:
            raise recipe.place.error(str(error)) from None
        return self.stages.expose(reference, plan)

    def _open_adapted(self, recipe: Recipe, reference: str, stage: str, adapters: Sequence[str]) -> Checkpoint:
        made = self._open(recipe, stage)
        try:
            found, own = self.models.locate_adapters(adapters), recipe_definitions(recipe.architectures)
            plan = plan_adapted(self.stages.plans[stage], made, found, self.registry, own)
        except InputError as error:
            raise recipe.place_of(reference).error(str(error)) from None
        self.models.close_with(reference, plan.checkpoints[0])
        return self.stages.expose(reference, plan)


def _plan(
    recipe: Recipe,
    planner: _Planner,
    method: type[Method],
    values: ParameterValues,
    checkpoints: list[Checkpoint],
    positions: dict[str, int],
) -> Plan:
    own = recipe_definitions(recipe.architectures)
    config_source, notes = _config_source(recipe, own, planner.registry, checkpoints, positions)
    architecture, fitted, found = fit_checkpoints(own, planner.registry, checkpoints, config_source)
    notes += found
    aligned = align(recipe, planner.registry, architecture, fitted, config_source, planner.models.locate_tokenizer)
    checkpoints = list(aligned.checkpoints)
    matcher = Matcher(recipe, method, architecture, checkpoints, positions, config_source)
    builder = JobBuilder(recipe, method, values, aligned)
    with explain_classes(checkpoints, config_source):
        check_accounted(architecture, checkpoints, config_source)
        changes = {**aligned.config, **_add_jobs(matcher, builder)}
    changes.update(tied := tie_config(architecture, {job.name for job in builder.jobs}, fitted[config_source]))
    notes += [f"{key}: set to {str(value).lower()} in the result to match its weights" for key, value in tied.items()]
    changes.update(_dtype_config(builder.jobs, checkpoints[config_source].config))
    if recipe.tokenizer is None:
        notes += check_vocabularies(builder.tables, checkpoints, config_source)
    return Plan(
        recipe=recipe,
        method=method,
        architecture=architecture,
        checkpoints=tuple(checkpoints),
        config_source=config_source,
        jobs=tuple(builder.jobs),
        config=with_keys(checkpoints[config_source].config, changes),
        dropped=_count_dropped(checkpoints, builder.jobs),
        notes=(
            *(note for checkpoint in checkpoints for note in checkpoint.notes),
            *notes,
            *aligned.notes,
            *builder.notes(),
            *matcher.notes(),
            *values.notes(builder.jobs),
            *config_notes(checkpoints, config_source, set(changes)),
        ),
        rows=aligned.rows,
        tokenizer_files=aligned.files,
        evaluations=_evaluations(recipe, planner.registry),
    )


def _config_source(
    recipe: Recipe,
    own: Mapping[str, Any],
    registry: Registry,
    checkpoints: Sequence[Checkpoint],
    positions: Mapping[str, int],
) -> tuple[int, list[str]]:
    """Return the model whose class the output has, with a note if it is neither the base nor the first model.

    A model that contains the base or first one takes its place, so that the order of the models does not matter.
    """
    given = source = positions[recipe.base_model or recipe.models[0]]
    if all(module.whole for module in recipe.modules.values()):
        for other, checkpoint in enumerate(checkpoints):
            if other != source and contains(own, registry, checkpoint, checkpoints[source]):
                source = other
    whole, part = checkpoints[source].reference, checkpoints[given].reference
    note = f"{whole}: contains {part}, so the result has its class, and its config and other files"
    return source, [note] if source != given else []


def _count_dropped(checkpoints: Sequence[Checkpoint], jobs: Iterable[Job]) -> int:
    """Return the number of tensors in the checkpoints that no job reads."""
    used: list[set[str]] = [set() for _ in checkpoints]
    for job in jobs:
        for item in job.inputs:
            used[item.model].add(item.tensor)
    return sum(len(checkpoint.tensors) for checkpoint in checkpoints) - sum(map(len, used))


def _add_jobs(matcher: Matcher, builder: JobBuilder) -> dict[str, Any]:
    """Create the jobs of all modules. Return the config changes for the modules with selected layers."""
    changes: dict[str, Any] = {}
    for module, recipe, stacks in matcher.modules():
        architecture, checkpoints = matcher.architecture, matcher.checkpoints
        source = checkpoints[matcher.config_source]
        if not recipe.whole or sum(stack.layers for stack in stacks) != module.layer_count(source.config, ""):
            changes.update(layer_config(architecture, module, stacks, checkpoints, matcher.config_source))
        for match in matcher.matches(module, recipe, stacks):
            builder.add(match)
    return changes


def _evaluations(recipe: Recipe, registry: Registry) -> tuple[Evaluation, ...]:
    if recipe.evaluate is None:
        return ()
    try:
        find_plugin("postprocessors", "evaluate")
    except PluginError as error:
        raise recipe.evaluate.error(str(error)) from None
    return parse_evaluations(recipe.evaluate, registry)


def _dtype_config(jobs: Sequence[Job], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output's dtype under the keys that the config uses for it, and a wrong dtype of a part corrected."""
    dtypes = {job.info.dtype for job in jobs if job.info.dtype in FLOATS}
    if not dtypes:
        return {}
    name = TORCH_NAMES[common_dtype(dtypes)]
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    present = {TORCH_NAMES[dtype] for dtype in dtypes}
    parts = [key for key, value in leaves(config) if key.endswith((".dtype", ".torch_dtype")) and value not in present]
    return dict.fromkeys((*keys, *parts), name)


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
