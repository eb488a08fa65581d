"""`mergecore tokensurgeon`, which gives a model another model's tokenizer."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mergecore.tooling import (
    ArchDirs,
    AsJson,
    Force,
    Health,
    HealthCheck,
    Memory,
    ModelPath,
    NoHealth,
    Out,
    Quiet,
    Registry,
    ShardSize,
    Workers,
    announce,
    definition_paths,
    local_definitions,
    run_options,
    run_with_progress,
    warn,
)
from mergecore_tokensurgeon.settings import Pieces, Settings, Weights, Where


class Way(str, Enum):
    """The names in `approximations.METHODS`, repeated here so that a help text does not import it."""

    omp = "omp"
    common_interpolation = "common_interpolation"
    subword = "subword"
    mean = "mean"
    zero = "zero"
    random = "random"
    john_hewitt = "john_hewitt"
    landmark_pca = "landmark_pca"
    stb = "stb"
    mp_rope = "mp_rope"


def tokensurgeon(
    model: ModelPath,
    donor: Annotated[str, typer.Argument(help="The model that supplies the tokenizer.", show_default=False)],
    out: Out,
    method: Annotated[
        Way, typer.Option("--method", "-a", help="How to create rows for tokens that MODEL does not have.")
    ] = Way.omp,
    k: Annotated[int, typer.Option("-k", "--k", help="Number of shared tokens to build a row from.", min=1)] = 64,
    cosine: Annotated[
        bool, typer.Option("--cosine", "-c", help="common_interpolation: find neighbors by angle instead of distance.")
    ] = False,
    weights: Annotated[
        Weights, typer.Option("--weights", "-w", help="common_interpolation: how to weight the neighbors.")
    ] = Weights.distance_proportional,
    pieces: Annotated[
        Pieces, typer.Option("--pieces", "-s", help="subword: how to combine the rows of a token's pieces.")
    ] = Pieces.mean,
    prefix_match: Annotated[
        Where, typer.Option("--prefix-match", help="Use the row of the longest token that a new one starts with.")
    ] = Where.no,
    byte_match: Annotated[
        Where, typer.Option("--byte-match", help="Use the row of a byte token for its character, and vice versa.")
    ] = Where.no,
    magikarp: Annotated[bool, typer.Option("--magikarp", help="Ignore rows that look untrained.")] = False,
    shrink: Annotated[
        float, typer.Option(help="How far to move new rows toward the mean of MODEL's rows, from 0 to 1.", min=0, max=1)
    ] = 0.0,
    noise: Annotated[float, typer.Option(help="Standard deviation of noise added to new rows.", min=0)] = 0.0,
    scale: Annotated[float, typer.Option(help="Factor of new rows.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 0,
    memory: Memory = "",
    arch_dir: ArchDirs = [],  # noqa: B006  typer creates a new list for every call
    workers: Workers = 0,
    shard_size: ShardSize = "",
    force: Force = False,
    health: Health = HealthCheck.quick,
    no_health: NoHealth = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Give MODEL the tokenizer of DONOR and write the result to OUT. Rows of shared tokens do not change."""
    settings = Settings(
        method.value, k, cosine, weights, pieces, prefix_match, byte_match, magikarp, shrink, noise, scale, seed
    )
    from mergecore_tokensurgeon.memory import check
    from mergecore_tokensurgeon.transplant import make_transplant

    reads = (Path(model), Path(donor), *definition_paths(arch_dir))
    options = run_options(memory, workers, shard_size, health, no_health, force=force, reads=reads)
    registry = Registry(warn, local_definitions(arch_dir))
    line = _line(model, donor, settings)
    plan, tables = make_transplant(model, donor, settings, registry, options.workers, line)
    try:
        check(tables, settings, options.workers, options.memory)
        plan = announce(plan, registry)
    except BaseException:
        plan.close()
        raise
    run_with_progress(plan, out, registry, options, quiet=quiet, as_json=as_json)


def _line(model: str, donor: str, settings: Settings) -> str:
    """Return the arguments of ``mergecore`` that reproduce the result, with OUT as a placeholder."""
    words = ["tokensurgeon", model, donor, "OUT"]
    for name, value in vars(settings).items():
        option, text = f"--{name.replace('_', '-')}", getattr(value, "value", value)
        if value is True:
            words.append(option)
        elif value != getattr(Settings(), name):
            words += [option, str(text)]
    return shlex.join(words)
