"""The commands `mergecore stack shuffle` and `mergecore stack slices`."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergecore.api import InputError
from mergecore.tooling import ArchDirs, check, load_file, printable, say, warn, write_whole

if TYPE_CHECKING:
    from mergecore_stack.drawing import Run

app = typer.Typer(help="Print a recipe that stacks layers of models, or write it to a file with --write.",
                  no_args_is_help=True)  # fmt: skip

Models = Annotated[list[str], typer.Argument(help="Model folders.", show_default=False)]
Weights = Annotated[list[float], typer.Option("--weight", "-w", help="Relative frequency of a model. Repeat for each.")]
Module = Annotated[str, typer.Option("--module", help="The module to stack if there are several, such as text.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Dtype of the result, such as bfloat16. Default: unchanged.")]
Write = Annotated[str, typer.Option("--write", help="Write the recipe to this new file instead of printing it.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the random draws.", min=0)]

CONFIG: dict[str, Any] = {
    "type": "object",
    "required": ["layer_slices"],
    "additionalProperties": False,
    "properties": {
        "layer_slices": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["model", "start", "end"],
                "additionalProperties": False,
                "properties": {
                    "model": {"type": "string", "minLength": 1},
                    "start": {"type": "integer", "minimum": 0},
                    "end": {"type": "integer", "minimum": 1},
                    "scale": {"type": "number"},
                },
            },
        },
        "embedding_source": {"type": "string", "minLength": 1},
        "lm_head_source": {"type": "string", "minLength": 1},
    },
}
"""Schema of a file of slices, with bakllama's keys."""


@app.command()
def shuffle(
    models: Models,
    weight: Weights = [],  # noqa: B006  typer creates a new list for every call
    full_random: Annotated[bool, typer.Option("--full-random", help="Use any layers in any order.")] = False,
    seed: Seed = 0,
    module: Module = "",
    dtype: Dtype = "",
    write: Write = "",
    arch_dir: ArchDirs = [],  # noqa: B006
) -> None:
    """Draw each layer at random from one of MODELS. By default, layers keep their positions."""
    from mergecore_stack import drawing, recipes

    weights = _weights(models, weight)
    registry = recipes.make_registry(arch_dir, warn)
    architecture, stacked, counts = recipes.layer_counts(models, registry, module)
    if len(set(counts)) > 1:
        listed = ", ".join(f"{model}: {count}" for model, count in zip(models, counts))
        raise InputError(f"all models must have the same number of layers, not {listed}")
    draw = drawing.scattered if full_random else drawing.shuffled
    runs = draw(counts[0], weights, seed)
    made_by = ["mergecore", "stack", "shuffle", *models, *(f"--weight={item:g}" for item in weights)]
    made_by += ["--full-random"] * full_random + [f"--seed={seed}"]
    value = recipes.recipe(models, runs, architecture, stacked, dtype)
    _finish(value, shlex.join(made_by), write, registry)


def _weights(models: list[str], given: list[float]) -> list[float]:
    """Return one weight per model.

    Raises:
        InputError: The numbers of weights and models differ, a weight is negative, or all are 0.
    """
    if len(models) < 2:
        raise InputError("provide at least two models to draw layers from")
    weights = given or [1.0] * len(models)
    if len(weights) != len(models):
        raise InputError(f"--weight: {len(weights)} given for {len(models)} models; pass one for each, in order")
    if not all(math.isfinite(item) and item >= 0 for item in weights) or not any(weights):
        raise InputError("--weight: must be nonnegative numbers that are not all 0")
    return weights


@app.command()
def slices(
    config: Annotated[Path, typer.Argument(help="A YAML file with layer_slices.", show_default=False)],
    module: Module = "",
    dtype: Dtype = "",
    write: Write = "",
    arch_dir: ArchDirs = [],  # noqa: B006
) -> None:
    """Stack the slices of layers listed in CONFIG, with model, start, end, and scale (bakllama's format)."""
    from mergecore_stack import recipes

    place, _ = load_file(config)
    check(place, CONFIG)
    models, runs = _runs(place)
    registry = recipes.make_registry(arch_dir, warn)
    architecture, stacked, counts = recipes.layer_counts(models, registry, module)
    for run, item in zip(runs, place.child("layer_slices").elements()):
        if run.end > counts[run.model]:
            raise item.child("end").error(f"{models[run.model]} has {counts[run.model]} layers, not {run.end}")
    value = recipes.recipe(models, runs, architecture, stacked, dtype)
    _finish(value, shlex.join(["mergecore", "stack", "slices", str(config)]), write, registry)


def _runs(place: Any) -> tuple[list[str], list[Run]]:
    """Return the models and slices in a file."""
    from mergecore_stack.drawing import Run

    items = place.value["layer_slices"]
    for item in place.child("layer_slices").elements():
        if item.value["start"] >= item.value["end"]:
            raise item.child("end").error(f"must be greater than start ({item.value['start']}); the end is exclusive")
    models = list(dict.fromkeys(item["model"] for item in items))
    for key, end in (("embedding_source", 0), ("lm_head_source", -1)):
        wanted, there = place.value.get(key), items[end]["model"]
        if wanted is not None and wanted != there:
            which = "first" if end == 0 else "last"
            raise place.child(key).error(
                f"is {wanted!r}, but it must be {there!r}, the model of the {which} slice; change either one"
            )
    return models, [Run(models.index(i["model"]), i["start"], i["end"], i.get("scale")) for i in items]


def _finish(value: Any, made_by: str, write: str, registry: Any) -> None:
    """Plan the recipe, then print or write it."""
    from mergecore_stack import recipes

    for note in recipes.check(value, registry):
        say(f"note: {note}")
    text = recipes.as_yaml(value, printable(made_by))
    if write:
        write_whole(Path(write), text, new=True)
        say(f"wrote {write}; next: mergecore run {shlex.quote(write)} OUT")
    else:
        typer.echo(text, nl=False)
