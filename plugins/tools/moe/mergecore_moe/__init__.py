"""`mergecore moe`, which builds a mixture of experts from dense models and a mergekit-moe config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergecore.tooling import (
    AsJson,
    Force,
    Health,
    HealthCheck,
    Listener,
    Memory,
    NoHealth,
    Out,
    OutputFolder,
    Progress,
    Quiet,
    Registry,
    ShardSize,
    Workers,
    announce,
    plan_view,
    prefetch,
    print_plan,
    run_options,
    run_plan,
    say,
    warn,
)

if TYPE_CHECKING:
    from torch import Tensor

    from mergecore_moe.config import Config
    from mergecore_moe.mixing import Mixture


def moe(
    config: Annotated[Path, typer.Argument(help="A YAML config, as for mergekit-moe.", show_default=False)],
    out: Out,
    memory: Memory = "",
    workers: Workers = 0,
    shard_size: ShardSize = "",
    force: Force = False,
    health: Health = HealthCheck.quick,
    no_health: NoHealth = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Build a mixture of experts from the dense models in CONFIG, and write it to the folder OUT."""
    from mergecore_moe.config import load_config

    options = run_options(memory, workers, shard_size, health, no_health, force=force, reads=(config,))
    registry = Registry(warn)
    mixture = _open(load_config(config), registry)
    try:
        # Both checks come before running the base, which can take a while.
        draft = announce(mixture.plan(_zeros(mixture), registry), registry)
        OutputFolder(out).check([*draft.reads, config], draft.bytes_out, force)
        if not quiet:
            print_plan(draft)
        prefetch(draft, lambda done, total: None)  # the prompts run through the base's weights before the merge
        plan = mixture.plan(_gates(mixture, options.memory, quiet), registry)
        with Progress(plan.bytes_out, quiet) as progress:
            listener = Listener(
                warn, progress.advance, progress.resume, tell=progress.tell, published=progress.published
            )
            run_plan(plan, out, registry, options, listener)
        if as_json:
            view = {**plan_view(plan), "out": str(out), "seconds": round(progress.seconds, 3)}
            typer.echo(json.dumps(view, indent=2))
        elif not quiet:
            say(f"{out}: {progress.summary()}")
    finally:
        mixture.models.close()


def _open(config: Config, registry: Registry) -> Mixture:
    """Open and check the config's models, and choose the family that fits."""
    from mergecore_moe.choosing import choose
    from mergecore_moe.mixing import Mixture, recipe_of
    from mergecore_moe.models import check_experts, open_models

    registry.before_plan(config.place.value)
    recipe = recipe_of(config)
    models = open_models(config, recipe, registry)
    try:
        family = choose(models.dense, config)
        check_experts(config, models)
        return Mixture(config, recipe, models, family)
    except BaseException:
        models.close()
        raise


def _zeros(mixture: Mixture) -> Tensor:
    import torch

    return torch.zeros(mixture.layers, len(mixture.prompted), mixture.hidden)


def _gates(mixture: Mixture, memory: int, quiet: bool) -> Tensor:
    """Return the router weights according to the config's gate_mode."""
    from mergecore_moe import gates
    from mergecore_moe.hidden import EMBEDDING, LayerByLayer
    from mergecore_moe.prompts import Tokens

    config, base = mixture.config, mixture.models.base
    if not config.prompted:
        return gates.drawn(config.mode, (mixture.layers, len(config.experts), mixture.hidden), config.seed)
    rows, positions = base.tensors[EMBEDDING].shape[0], base.config.get("max_position_embeddings")
    tokens = Tokens(base.info.tokenizer_folder, rows, positions)
    prompts = tokens.of(mixture.prompted)
    if config.mode == "cheap_embed":
        found = gates.embedded(base, prompts, mixture.layers)
    else:
        if not quiet:
            count = sum(len(item.positive) + len(item.negative) for item in prompts)
            say(f"routers: running {count} prompts through {base.reference}, one layer at a time")
        found = gates.seen(LayerByLayer(base, memory), prompts, average=config.mode == "hidden_avg")
    near = gates.alike(found)
    if near:
        warn(
            f"the routers of {len(near)} of {mixture.layers} layers can hardly tell their experts apart, because the"
            " prompts look similar to the base; use prompts that differ more"
        )
    return found
