"""Checks of what the formulae of some methods promise, and only those who claim it are held to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest.mock import patch

from mergecore.api import Context, Method
from mergecore_testing.conformance.cases import Case, by_default, cases, counts
from mergecore_testing.conformance.compare import expect, near, same

if TYPE_CHECKING:
    from torch import Tensor


def check_identical_models_give_that_model(method: type[Method]) -> None:
    """Merged with itself by default parameters, a model stays what it is, but for float32 rounding."""
    for case, result, expected in identical(method):
        expect(near(result, expected), f"{case}: identical models do not give that model")


def check_identical_models_give_that_model_exactly(method: type[Method]) -> None:
    """Merged with itself by default parameters, a model stays bit for bit what it is."""
    for case, result, expected in identical(method):
        expect(same(result, expected), f"{case}: identical models do not give that model bit for bit")


def check_order_of_models_is_irrelevant(method: type[Method]) -> None:
    """Models in another order, their parameters with them, give the same but for float32 rounding.

    Not where random numbers are drawn, since those belong to a model's place.
    """
    compared = 0
    for count in counts(method):
        for case in cases(method, count):
            tensors, turned = case.tensors(41, 67), reverse(case)
            models = tensors[case.based :]
            with patch.object(Context, "random", autospec=True, side_effect=Context.random) as random:
                result, other = case.merge(tensors), turned.merge([*tensors[: case.based], *models[::-1]])
            if len(models) > 1 and not random.called:
                compared += 1
                expect(near(other, result), f"{case}: models in another order give another result")
    expect(compared, f"{method.__name__} never takes two models, or draws random numbers for each: claim no symmetry")


def reverse(case: Case) -> Case:
    """The case with the values for each model from the last model to the first, but for that of a base among them."""
    first = int(case.based and not case.subtracts)
    turned = {
        name: [*value[:first], *value[first:][::-1]] if isinstance(value, list) else value
        for name, value in case.parameters.items()
    }
    return replace(case, parameters=turned)


def identical(method: type[Method]) -> Iterator[tuple[Case, Tensor, Tensor]]:
    """Merges of one model several times, and what they should be: the difference from the base, added to it."""
    for count in counts(method):
        for case in by_default(method, count):
            base, model = replace(case, count=2, based=False).tensors(33, 70)
            if case.subtracts:
                yield case, case.merge([base, *[model] * count]), base + (model - base)
            else:
                yield case, case.merge([model] * count), model
