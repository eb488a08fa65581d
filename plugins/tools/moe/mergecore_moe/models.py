"""Open the config's models and check that they are compatible, before reading any weight."""

from __future__ import annotations

from dataclasses import dataclass

from mergecore.api import ModelError
from mergecore.tooling import (
    Architecture,
    Checkpoint,
    MergecoreError,
    Recipe,
    Registry,
    check_accounted,
    fit_checkpoints,
    open_model,
    recipe_definitions,
)
from mergecore_moe.config import Config, Expert
from mergecore_moe.dense import Dense, check_sizes, dense
from mergecore_moe.families import PROJECTIONS

LAYER = "model.layers.{layer}."
MLP = LAYER + "mlp.{projection}.weight"


@dataclass(frozen=True)
class Models:
    """The opened models.

    Attributes:
        checkpoints: The base, then each other model once. Tensors have the names from the base's definition.
        positions: Position of every reference in `checkpoints`.
        architecture: Architecture of the base.
        dense: Properties of the base that families check.
        notes: Notes for the user.
    """

    checkpoints: tuple[Checkpoint, ...]
    positions: dict[str, int]
    architecture: Architecture
    dense: Dense
    notes: tuple[str, ...]

    @property
    def base(self) -> Checkpoint:
        return self.checkpoints[0]

    def close(self) -> None:
        """Close the files."""
        for checkpoint in self.checkpoints:
            checkpoint.close()


def open_models(config: Config, recipe: Recipe, registry: Registry) -> Models:
    """Open the base and the experts.

    Raises:
        InputError: A model cannot be opened, or has unknown tensors.
    """
    opened: list[Checkpoint] = []
    try:
        positions = _open(config, registry, opened)
        architecture, fitted, notes = fit_checkpoints(recipe_definitions(recipe.architectures), registry, opened, 0)
        check_accounted(architecture, fitted, 0)
        return Models(tuple(fitted), positions, architecture, dense(fitted[0]), tuple(notes))
    except BaseException:
        for checkpoint in opened:
            checkpoint.close()
        raise


def _open(config: Config, registry: Registry, opened: list[Checkpoint]) -> dict[str, int]:
    """Open each model once into `opened`, the base first, and return the position of each reference there."""
    places = [(config.base, config.place.child("base_model"))]
    places += [(expert.model, expert.place.child("source_model")) for expert in (*config.experts, *config.shared)]
    positions: dict[str, int] = {}
    for reference, place in places:
        if reference in positions:
            continue
        try:
            checkpoint = open_model(reference, registry)
        except MergecoreError as error:
            raise place.error(str(error)) from None
        origins = [item.origin for item in opened]
        if checkpoint.origin in origins:
            checkpoint.close()
            positions[reference] = origins.index(checkpoint.origin)
        else:
            positions[reference] = len(opened)
            opened.append(checkpoint)
    return positions


def check_experts(config: Config, models: Models) -> None:
    """Raise `InputError` if an expert does not match the base."""
    check_sizes(models.base, models.dense.config)
    for expert in (*config.experts, *config.shared):
        _check(expert, models.checkpoints[models.positions[expert.model]], models.base, models.dense)


def _check(expert: Expert, checkpoint: Checkpoint, base: Checkpoint, model: Dense) -> None:
    """Check that an expert has the type of the base, and that its MLPs have the same shapes."""
    place = expert.place.child("source_model")
    kind = checkpoint.config.get("model_type")
    if kind != model.kind:
        raise place.error(f"{expert.model} is a {kind!r} model, but the base {base.reference} is {model.kind!r}")
    activation = checkpoint.config.get("hidden_act", model.config.get("hidden_act"))
    if activation != model.config.get("hidden_act"):
        raise place.error(f"{expert.model} uses {activation!r}, but the base uses {model.config['hidden_act']!r}")
    layers, own = model.config["num_hidden_layers"], checkpoint.config.get("num_hidden_layers")
    if own != layers:
        raise place.error(f"{expert.model} has {own} layers, but the base {base.reference} has {layers}")
    for layer in range(layers):
        for projection in PROJECTIONS:
            name = MLP.format(layer=layer, projection=projection)
            if name not in base.tensors:
                raise ModelError(f"{base.folder}: has no {name!r}; download the checkpoint again")
            if name not in checkpoint.tensors:
                raise place.error(f"{expert.model} has no {name!r}; download the checkpoint again")
            ours, theirs = base.tensors[name].shape, checkpoint.tensors[name].shape
            if ours != theirs:
                raise place.error(f"{name} is {list(theirs)} in {expert.model}, but {list(ours)} in {base.reference}")
