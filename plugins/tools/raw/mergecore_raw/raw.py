"""The command `mergecore raw RECIPE OUT`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergecore.api import InputError
from mergecore.tooling import (
    AsJson,
    Checkpoint,
    Force,
    Memory,
    Options,
    Plan,
    Quiet,
    Recipe,
    RecipePath,
    Registry,
    ShardSize,
    Workers,
    load_recipe,
    make_plan,
    run_options,
    run_with_progress,
    say,
    warn,
)

if TYPE_CHECKING:
    from mergecore.api import PostProcessor

RawOut = Annotated[Path, typer.Argument(help="A .safetensors file, or a folder for diffusers.", show_default=False)]
Intersection = Annotated[
    bool, typer.Option("--tensor-intersection", "-i", help="Skip tensors that some models do not have.")
]
Union = Annotated[bool, typer.Option("--tensor-union", "-u", help="Merge each tensor from the models that have it.")]


def raw(
    recipe: RecipePath,
    out: RawOut,
    intersection: Intersection = False,
    union: Union = False,
    memory: Memory = "",
    workers: Workers = 0,
    shard_size: ShardSize = "",
    force: Force = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Write tensors with NaN or infinity, with a warning.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Merge weight files (.safetensors, .pt, .bin, .ckpt) or diffusers folders by the names of their tensors."""
    from mergecore_raw.opening import is_diffusers

    if intersection and union:
        raise InputError("--tensor-intersection and --tensor-union cannot be combined; use only one")
    loaded = load_recipe(recipe)
    folders = [is_diffusers(model) for model in loaded.models]
    options = options_for(memory, workers, shard_size, force, allow_nonfinite, components=any(folders))
    if any(folders) is not all(folders):
        other = loaded.models[folders.index(False)]
        raise InputError(f"{other}: is not a diffusers folder, but other models in the recipe are")
    check_out(out, any(folders))
    plan, registry = _plan(loaded, intersection, union, options.memory, quiet)
    run_with_progress(plan, out, registry, options, quiet=quiet, as_json=as_json, finishing=finishing(any(folders)))


def options_for(
    memory: str, workers: int, shard_size: str, force: bool, allow_nonfinite: bool, components: bool
) -> Options:
    """Return the options of a run that writes one file, or the components of a folder."""
    options = run_options(memory, workers, shard_size, force=force, allow_nonfinite=allow_nonfinite)
    if components:
        return replace(options, writer="components")
    return replace(options, file="model.safetensors", shard_bytes=2**62)


def finishing(components: bool) -> Mapping[str, PostProcessor]:
    """Return the steps that copy the other files of a diffusers folder after the weights. A file has none."""
    from mergecore_raw.components import Carry

    return {"carry": Carry()} if components else {}


def check_out(out: Path, components: bool) -> None:
    """Raise `InputError` if the output is not a safetensors file, or not a folder for components."""
    if components and out.suffix.lower() == ".safetensors":
        raise InputError(f"{out}: the models are folders of components, so the output must be a folder")
    if not components and out.suffix.lower() != ".safetensors":
        raise InputError(f"{out}: must end in .safetensors; other formats can run code when they are loaded")
    if not components and not out.absolute().parent.is_dir():
        raise InputError(f"{out}: the folder {out.absolute().parent} does not exist; create it first")


def _plan(recipe: Recipe, intersection: bool, union: bool, memory: int, quiet: bool) -> tuple[Plan, Registry]:
    """Plan a recipe, using the tensor names of its models as the architecture."""
    from mergecore_raw.lora_files import are_lora_files, merged_loras
    from mergecore_raw.opening import CLASS

    for key in ("tokenizer", "tokenizer_source", "chat_template"):
        if place := recipe.place.get(key):
            raise place.error("weights without a config have no tokenizer; remove this key")
    registry = Registry(warn)
    waiting = _opened(recipe, registry)
    try:
        if are_lora_files(waiting):
            recipe, waiting = merged_loras(recipe, waiting)
        names = {model: list(checkpoint.tensors) for model, checkpoint in waiting.items()}
        common = set.intersection(*map(set, names.values()))
        if intersection:
            waiting = {model: only(checkpoint, common) for model, checkpoint in waiting.items()}
            left_out = len({name for found in names.values() for name in found} - common)
            if left_out and not quiet:
                say(f"skipping {left_out} tensor(s) that some models do not have")
        elif not union:
            _check_same(names, common)
        registry.definitions = {CLASS: definition(names, common, union)}
        return make_plan(recipe, registry, memory, opening=lambda model, _: waiting.pop(model)), registry
    except BaseException:
        for checkpoint in waiting.values():  # the plan closes the checkpoints that it has taken
            checkpoint.close()
        raise


def _opened(recipe: Recipe, registry: Registry) -> dict[str, Checkpoint]:
    from mergecore.api import ModelError
    from mergecore_raw.opening import open_state

    opened: dict[str, Checkpoint] = {}
    try:
        for model in recipe.models:
            opened[model] = open_state(model, registry)
    except BaseException as error:
        for checkpoint in opened.values():
            checkpoint.close()
        if isinstance(error, ModelError):
            raise recipe.place_of(model).error(str(error)) from None
        raise
    return opened


def only(checkpoint: Checkpoint, names: set[str]) -> Checkpoint:
    """Return a checkpoint with a subset of its tensors."""
    kept = {name: info for name, info in checkpoint.tensors.items() if name in names}
    return replace(checkpoint, tensors=kept, readers={name: checkpoint.readers[name] for name in kept})


def definition(names: Mapping[str, Sequence[str]], common: set[str], union: bool) -> dict[str, Any]:
    """Return the architecture with these names, in order. With `union`, names that not all models have are optional."""
    every = dict.fromkeys(name for found in names.values() for name in found)
    return {"before": [
        {"name": name, "optional": True} if name not in common else name for name in every if union or name in common
    ]}  # fmt: skip


def _check_same(names: Mapping[str, Sequence[str]], common: set[str]) -> None:
    for model, found in names.items():
        if alone := [name for name in found if name not in common]:
            lacking = next(other for other, there in names.items() if alone[0] not in there)
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            raise InputError(
                f"{model}: has {alone[0]!r}{more}, but {lacking} does not; use --tensor-union to merge such tensors"
                " from the models that have them, or --tensor-intersection to skip them"
            )
