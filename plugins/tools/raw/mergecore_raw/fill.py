"""The command `mergecore fill MODEL TEMPLATE OUT`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergecore.api import InputError, ModelError
from mergecore.tooling import (
    ArchDirs,
    AsJson,
    Checkpoint,
    Force,
    Memory,
    ModelPath,
    Options,
    Place,
    Quiet,
    Registry,
    ShardSize,
    Span,
    definition_paths,
    find_architecture,
    local_definitions,
    make_plan,
    open_model,
    parse_recipe,
    rename_tensors,
    run_options,
    run_with_progress,
    say,
    warn,
    with_layout,
)
from mergecore_raw.opening import CLASS, is_diffusers, is_file, open_state
from mergecore_raw.raw import check_out, definition, finishing, options_for

if TYPE_CHECKING:
    from mergecore.api import PostProcessor

Template = Annotated[str, typer.Argument(help="A complete model of the same type as MODEL.", show_default=False)]
FillOut = Annotated[Path, typer.Argument(help="The folder or .safetensors file to write.", show_default=False)]


def fill(
    model: ModelPath,
    template: Template,
    out: FillOut,
    memory: Memory = "",
    arch_dir: ArchDirs = [],  # noqa: B006  typer creates a new list for every call
    shard_size: ShardSize = "",
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Complete MODEL: write its tensors to OUT, and take all missing tensors from TEMPLATE."""
    sort = "file" if is_file(template) else "components" if is_diffusers(template) else "folder"
    if sort != "folder":
        check_out(out, sort == "components")
    registry = Registry(warn, local_definitions(arch_dir))
    reads = (Path(model), Path(template), *definition_paths(arch_dir))
    options = replace(_options(sort, memory, shard_size, force), reads=reads)
    whole = _overlaid(model, template, registry, quiet)
    recipe = parse_recipe(Place({"merge_method": "passthrough", "models": [{"model": template}]}), "")
    plan = make_plan(recipe, registry, options.memory, opening=lambda _reference, _registry: whole)
    steps = _steps(registry) if sort == "folder" else finishing(sort == "components")
    run_with_progress(plan, out, registry, options, quiet=quiet, as_json=as_json, finishing=steps)


def _options(sort: str, memory: str, shard_size: str, force: bool) -> Options:
    if sort == "folder":
        return run_options(memory, shard_size=shard_size, force=force, allow_nonfinite=True)
    return options_for(memory, 0, shard_size, force, True, components=sort == "components")


def _steps(registry: Registry) -> Mapping[str, PostProcessor]:
    """Return the steps that copy the template's config, tokenizer, etc. after the weights are written."""
    return {"config": registry.provide("postprocessors", "config")()}


def _overlaid(model: str, template: str, registry: Registry, quiet: bool) -> Checkpoint:
    """Return the template with its tensors replaced by those of the model.

    Raises:
        ModelError: A tensor of the model is not in the template, or has a different shape there.
    """
    whole = _open(template, registry)
    part: Checkpoint | None = None
    try:
        part = _open(model, registry)
        if part.origin == whole.origin:
            raise InputError(f"{model}: is the template itself")
        if whole.config.get("architectures") == [CLASS]:
            own = definition({template: list(whole.tensors)}, set(whole.tensors), False)
            registry.definitions = {**registry.definitions, CLASS: own}
        places = _places(part, whole, registry)
        _check_places(part, whole, places)
    except BaseException:
        for checkpoint in (whole, part):
            if checkpoint is not None:
                checkpoint.close()
        raise
    if not quiet:
        say(f"{len(places)} tensors are from {model}, {len(whole.tensors) - len(places)} are filled in from {template}")
    return _with(whole, part, places)


def _open(reference: str, registry: Registry) -> Checkpoint:
    plain = is_file(reference) or is_diffusers(reference)
    return open_state(reference, registry) if plain else open_model(reference, registry)


def _places(part: Checkpoint, whole: Checkpoint, registry: Registry) -> dict[str, str]:
    """Return the model's name for each tensor in the template that the model has too.

    Different prefixes are resolved with the template's architecture, or else by the one prefix that turns most of the
    names into names of the template.
    """
    names = dict(_renamed(part, whole, registry))
    prefix = best_prefix(names, whole.tensors)
    return {label: name for own, name in names.items()
            if (label := own if own in whole.tensors else prefix + own) in whole.tensors}  # fmt: skip


def _renamed(part: Checkpoint, whole: Checkpoint, registry: Registry) -> Iterable[tuple[str, str]]:
    """Return each tensor's name in the template's architecture together with its name in the model."""
    architecture, _ = find_architecture(whole, registry, {})
    shown, _ = rename_tensors(part, architecture)
    return zip(shown.tensors, part.tensors)  # the same tensors in the same order


def best_prefix(names: Iterable[str], wanted: Iterable[str]) -> str:
    """Return the prefix that turns most names into wanted ones, or empty if none does."""
    ends: dict[str, list[str]] = {}
    for name in wanted:
        parts = name.split(".")
        for cut in range(len(parts)):
            ends.setdefault(".".join(parts[cut:]), []).append(".".join([*parts[:cut], ""]) if cut else "")
    found = Counter(prefix for name in names for prefix in ends.get(name, ()))
    return min(found, key=lambda prefix: (-found[prefix], prefix), default="")


def _check_places(part: Checkpoint, whole: Checkpoint, places: Mapping[str, str]) -> None:
    lost = sorted(set(part.tensors) - set(places.values()))
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise ModelError(
            f"{part.reference}: {lost[0]!r}{more} not found in {whole.reference}, and would be lost;"
            " use a template that has them"
        )
    for label, name in places.items():
        one, other = part.tensors[name].shape, whole.tensors[label].shape
        if one != other:
            raise ModelError(
                f"{part.reference}: {name!r} has shape {list(one)}, but {list(other)} in {whole.reference}"
            )


def _with(whole: Checkpoint, part: Checkpoint, places: Mapping[str, str]) -> Checkpoint:
    infos = {label: part.tensors[name] for label, name in places.items()}
    spans = {label: [Span(name, 0, part.tensors[name].elements)] for label, name in places.items()}
    shown = with_layout(part, infos, spans)
    return replace(
        whole,
        tensors={**whole.tensors, **infos},
        readers={**whole.readers, **shown.readers},
        files=[*whole.files, *part.files],
        stamps={**whole.stamps, **part.stamps},
    )
