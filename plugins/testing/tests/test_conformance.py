"""Correct methods pass every check, and every check detects a faulty method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, make_dataclass
from typing import Any, Literal

import pytest
import torch
from mergecore_testing.conformance import CHECKS, conformance
from mergecore_testing.conformance.face import CLAIMS
from mergecore_testing.environment import PluginEnv
from torch import Tensor

from mergecore.api import Base, Context, DeltaMethod, InputError, Method, PerModel, Tile, WeightMethod, param


@dataclass(frozen=True, kw_only=True)
class Mean(DeltaMethod):
    """Average the task vectors.

    result = base + mean(delta)
    """

    tile = Tile.ELEMENTS

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        return torch.stack(list(deltas)).mean(0)


@dataclass(frozen=True, kw_only=True)
class Everything(WeightMethod):
    """Use every feature: measuring, random numbers, an optional base, all parameter types (https://example.org/paper)."""

    tile = Tile.ROWS
    base = Base.OPTIONAL
    models = (2, 5)

    weight: PerModel[float] = param(doc="Weight of this model.")
    steps: int = param(doc="Divisor of the sum.", minimum=1, maximum=4)
    chance: PerModel[float] = param(1.0, "Probability that an element counts.", minimum=0.0, maximum=1.0)
    below: float = param(2.0, "Added to the largest magnitude, which limits all values.", maximum=4.0)
    kind: Literal["sum", "mean"] = param("mean", "Type of reduction.")
    power: int = param(1, "Exponent.", enum=(1, 2))
    flip: PerModel[bool] = param(False, "Flip the sign.")
    lambda_: float = param(0.5, "Scale.", alias="lambda")
    label: str | None = param(None, "Has no effect.")

    def __post_init__(self) -> None:
        if self.kind == "sum" and self.power == 2:
            raise InputError("a sum has no power; change one of them")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> float:
        return max(float(tile[0].abs().max()) for tile in tiles)

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        total = torch.zeros_like(weights[0])
        for model, (tensor, weight, flip) in enumerate(zip(weights, self.weight, self.flip, strict=True)):
            drawn = (ctx.random(model, tensor) < self.chance[model]).to(tensor.dtype)
            total += (-weight if flip else weight) * drawn * tensor.clamp(max=ctx.measured + self.below)
        return self.lambda_ * total**self.power / (1 if self.kind == "sum" else self.steps)


test_mean = conformance(Mean, identical="rounded", symmetric=True)
test_everything = conformance(Everything)


Parameter = tuple[str, Any, Any]


def broken(*parameters: Parameter, **namespace: Any) -> type[Method]:
    """Return the mean method with some parts replaced."""
    parts = {"__doc__": Mean.__doc__, **namespace}
    return make_dataclass("Broken", parameters, bases=(Mean,), namespace=parts, frozen=True, kw_only=True)


def whole(merge: Callable[[Any, Any, Context], Any], *parameters: Parameter, **namespace: Any) -> type[Method]:
    """Return a method with a faulty `merge`."""
    return broken(*parameters, merge=merge, **namespace)


def each(change: Callable[[Tensor, Context], Any]) -> type[Method]:
    """Return a method that changes each task vector before summing them."""
    return whole(lambda m, d, ctx: sum((change(x, ctx) for x in d[1:]), change(d[0], ctx)))


def zero_first(self: Method, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> None:
    tiles[0][0].zero_()


def own_generator(x: Tensor, ctx: Context) -> Tensor:
    return x * torch.rand(x.shape, generator=torch.Generator().manual_seed(ctx.seed))


def means_of_tiles(self: Method, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> float:
    return sum(float(tile[0].mean()) for tile in tiles)


def times_weight(self: Any, deltas: Sequence[Tensor], ctx: Context) -> list[Tensor]:
    return [delta * weight for delta, weight in zip(deltas, self.weight, strict=True)]


def first_weight(self: Any, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> float:
    return self.weight[0]


def times_measured(self: Method, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
    return deltas[0] * ctx.measured


SEEN = [0.0]


def remember(x: Tensor, ctx: Context) -> Tensor:
    SEEN.append(float(x.view(-1)[-1]))
    return x + SEEN[-2]


CHANGEABLE = dataclass(type("Broken", (DeltaMethod,), {"__doc__": "."}))
UNDECORATED = type("Broken", (Mean,), {"__doc__": "."})
SHARE = ("share", float, param(0.5, "A fraction.", minimum=0.0, maximum=1.0))
MUCH = ("much", float, param(2.0, "Default outside its range.", maximum=1.0))
MUTE = ("mute", float, param(0.5))
WEIGHT = ("weight", PerModel[float], param(1.0, "A weight."))
ROWS, TENSOR = Tile.ROWS, Tile.TENSOR

FAULTS: dict[str, list[tuple[str, type[Method], str]]] = {
    "is_a_method": [
        ("can be changed", CHANGEABLE, "frozen=True"),
        ("decorator forgotten", UNDECORATED, "above the class"),
        ("default out of range", broken(MUCH), "at most"),
    ],
    "documented": [
        ("no docstring", broken(__doc__=None), "must be a sentence"),
        ("no source", broken(__doc__="Average the task vectors."), "neither a paper link nor a formula"),
        ("parameter not described", broken(MUTE), "'mute' has no description"),
    ],
    "shape_and_dtype_kept": [
        ("broadcasts", each(lambda x, ctx: x.mean()), "merge returns shape"),
        ("adds a dimension", each(lambda x, ctx: x[None]), "merge returns shape"),
        ("loses float64", each(lambda x, ctx: x.float()), "float32"),
    ],
    "numbers_of_models": [
        ("third model forgotten", whole(lambda m, d, ctx: sum(d[:2])), "number 2, 3, 4"),
        ("not for one model", whole(lambda m, d, ctx: d[0] + d[1]), "out of range"),
    ],
    "ends_of_ranges_stay_finite": [
        ("divides by a parameter", whole(lambda m, d, ctx: sum(d) / m.share, SHARE), "share=0.0"),
    ],
    "zeros_and_opposites_stay_finite": [
        ("divides by a norm", each(lambda x, ctx: x / x.norm()), "zeros"),
        ("divides by a sum", whole(lambda m, d, ctx: (d[-1].sign() / sum(d)).nan_to_num(0, math.inf)), "cancel"),
    ],
    "zero_deltas_give_the_base": [("moves the base", each(lambda x, ctx: x + 1e-6), "do not return the base")],
    "nan_shows": [("NaN becomes 0", each(lambda x, ctx: x.nan_to_num()), "NaN in an input gives")],
    "inputs_unchanged": [
        ("merges in place", each(lambda x, ctx: x.mul_(2)), "merge modifies"),
        ("merges float64 in place", each(lambda x, ctx: x.double().mul_(2).to(x.dtype)), "float64"),
        ("measures in place", broken(measure=zero_first), "measure modifies"),
        ("prepares in place", broken(prepare=lambda m, d, ctx: [x.mul_(2) for x in d]), "prepare modifies"),
    ],
    "only_named_parameters_prepare": [
        ("prepares by another", broken(WEIGHT, prepare=times_weight, measured_by=()), "prepares by more"),
        ("measures by another", broken(WEIGHT, measure=first_weight, merge=times_measured, measured_by=()), "by more"),
    ],
    "randomness": [
        ("torch's generator", each(lambda x, ctx: x * torch.rand_like(x)), "merging again"),
        ("a separate generator", each(own_generator), "without using ctx.random"),
        ("draws in vain", each(lambda x, ctx: x + 0 * ctx.random(0, x)), "change nothing"),
    ],
    "tiles_change_no_bit": [
        ("depends on the tile", each(lambda x, ctx: x - x.mean()), "in tiles of"),
        ("measures by tile", whole(lambda m, d, ctx: d[0] + ctx.measured, measure=means_of_tiles), "in tiles of"),
        ("columns of rows", whole(lambda m, d, ctx: d[0] - d[0].sum(0), tile=ROWS), "in tiles of"),
    ],
    "order_of_tiles_changes_no_bit": [("remembers", each(remember), "in reverse order")],
    "threads_change_no_bit": [
        ("float32 sum", whole(lambda m, d, ctx: d[0] + d[0].sum(), tile=TENSOR), "one thread and three threads"),
    ],
    "identical_models_give_that_model": [("a sum", each(lambda x, ctx: x), "does not return that model")],
    "identical_models_give_that_model_exactly": [
        ("rounds", whole(lambda m, d, ctx: sum(x / len(d) for x in d)), "bit for bit"),
    ],
    "order_of_models_is_irrelevant": [
        ("the first counts twice", whole(lambda m, d, ctx: sum(d, d[0])), "reordering the models"),
        (
            "another one's weight",
            whole(lambda m, d, ctx: sum(d) + d[0] * max(m.weight), WEIGHT),
            "reordering the models",
        ),
        ("one model only", broken(models=(1, 1)), "never takes two models"),
    ],
}
"""By check: a description of the fault, the faulty method, and part of the message."""

ALL = {check.__name__.removeprefix("check_"): check for check in (*CHECKS, *CLAIMS)}


@pytest.mark.parametrize(
    ("check", "method", "words"),
    [pytest.param(ALL[name], *rest, id=fault) for name, faults in FAULTS.items() for fault, *rest in faults],
)
def test_a_fault_is_found(check: Callable[[type[Method]], None], method: type[Method], words: str) -> None:
    with pytest.raises((AssertionError, IndexError), match=words):
        check(method)


def test_every_check_has_a_fault_to_find() -> None:
    assert FAULTS.keys() == ALL.keys()


@pytest.mark.parametrize(
    ("failures", "words"),
    [({"check_nan_show": "why"}, "did you mean 'check_nan_shows'"), ({"check_nan_shows": ""}, "give a reason why")],
)
def test_expected_failures_are_named_rightly_and_explained(failures: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        conformance(Mean, expected_failures=failures)


AUTHORS_TEST = """
from mergecore_testing.conformance import conformance

test_expected = conformance("linear", identical="exact", expected_failures={WRONG: "division rounds"})
test_passes_unexpectedly = conformance("linear", expected_failures={"check_nan_shows": "a mistake"})
""".replace("WRONG", '"check_identical_models_give_that_model_exactly"')


def test_each_check_is_a_case_and_expected_failures_are_strict(plugin_env: PluginEnv) -> None:
    (plugin_env.folder / "test_author.py").write_text(AUTHORS_TEST)
    command = ["-m", "pytest", "-rA", "--tb=no", "-k", "documented or nan_shows or exactly", "test_author.py"]
    result = plugin_env.python(*command, cwd=plugin_env.folder)
    lines = [line.split(" - ")[0].split("::") for line in result.stdout.splitlines() if "::" in line]
    assert {name: outcome.split()[0] for outcome, name in lines} == {
        "test_expected[documented]": "PASSED",
        "test_expected[nan_shows]": "PASSED",
        "test_expected[identical_models_give_that_model_exactly]": "XFAIL",
        "test_passes_unexpectedly[documented]": "PASSED",
        "test_passes_unexpectedly[nan_shows]": "FAILED",
    }
