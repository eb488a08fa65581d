"""Isolated merges for checks, with the kit's own methods and models and without hooks or post-processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api import Context, DeltaMethod, PerModel, Tile, WeightMethod, param
from mergecore.discovery.registry import Registry
from mergecore.planning import Plan, make_plan
from mergecore.recipes.composition import load_recipe
from mergecore.running.runner import run_plan
from mergecore.running.settings import Listener, Options
from mergecore_testing.checkpoints import write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

CLASS = "TinyForCausalLM"
DEFINITION: Mapping[str, Any] = {
    "layers": {"count": "num_hidden_layers", "prefix": "model.layers.{layer}."},
    "before": [{"name": "model.embed_tokens.weight", "vocabulary_axis": 0}],
    "layer": ["norm.weight", "up.weight", "up.bias", "down.weight"],
    "after": [
        "model.norm.weight",
        {"name": "lm_head.weight", "tied_to": "model.embed_tokens.weight", "vocabulary_axis": 0},
    ],
}
"""A small language model that no installed package defines."""


@dataclass(frozen=True, kw_only=True)
class Mean(WeightMethod):
    """Weighted sum, element by element: result = sum(weight * model)."""

    tile = Tile.ELEMENTS
    weight: PerModel[float] = param(0.5, "Weight of this model.")

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        total = weights[0] * self.weight[0]
        for weight, tensor in zip(self.weight[1:], weights[1:]):
            total = total + weight * tensor
        return total


@dataclass(frozen=True, kw_only=True)
class Loudest(DeltaMethod):
    """Divide each row by the largest change in the whole tensor: result = base + delta / max(|delta|)."""

    tile = Tile.ROWS

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> float:
        return max(float(delta.abs().max()) for tile in tiles for delta in tile)

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        loudest: float = ctx.measured
        return deltas[0] / max(loudest, 1e-8)


@dataclass(frozen=True, kw_only=True)
class Broken(WeightMethod):
    """Always fail."""

    tile = Tile.ELEMENTS

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        raise ValueError("this method always fails")


METHODS = {"kit-mean": Mean, "kit-loudest": Loudest, "kit-broken": Broken}


class Sandbox(Registry):
    """Plugin registry for one check.

    Args:
        own: plugins by kind and name that take precedence over the installed ones.
        definitions: architectures in addition to the kit's own.
    """

    def __init__(
        self, own: Mapping[tuple[str, str], Any] | None = None, definitions: Mapping[str, Any] | None = None
    ) -> None:
        self.problems: list[str] = []
        super().__init__(self.problems.append, {CLASS: DEFINITION, **(definitions or {})}, hooks=False)
        self._own = {**{("methods", name): method for name, method in METHODS.items()}, **(own or {})}

    def provide(self, kind: str, name: str) -> Any:
        return self._own[kind, name] if (kind, name) in self._own else super().provide(kind, name)

    def names(self, kind: str) -> list[str]:
        return []  # no post-processors, because checks call those directly

    def plan(self, recipe: Mapping[str, Any]) -> Plan:
        """Return a recipe's plan. The caller must close it."""
        return make_plan(load_recipe(recipe), self, 2**30)

    def run(
        self,
        recipe: Mapping[str, Any],
        out: Path,
        *,
        advance: Callable[[int], None] = lambda count: None,
        memory: int = 2**30,
        **options: Any,
    ) -> Path:
        """Merge a recipe into `out`. Options are passed to `mergecore.running.Options`."""
        plan = self.plan(recipe)
        try:
            settings = Options(**{"memory": memory, "workers": 2, **options})
            return run_plan(plan, out, self, settings, Listener(self.problems.append, advance))
        finally:
            plan.close()


def models(folder: Path, count: int, **options: Any) -> list[str]:
    """Create model folders of the kit's own class. Options are passed to `write_checkpoint`."""
    return [str(write_checkpoint(folder / f"model{i}", CLASS, DEFINITION, seed=i, **options)) for i in range(count)]


def recipe(method: str, models: Sequence[str], **keys: Any) -> dict[str, Any]:
    """Return a recipe that merges whole models."""
    return {"merge_method": method, "models": [{"model": model} for model in models], **keys}
