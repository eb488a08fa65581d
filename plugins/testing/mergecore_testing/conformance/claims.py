"""Checks of optional claims about a method's formula. They run only for methods that make the claim."""

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
    """With default parameters, merging a model with itself returns it up to float32 rounding."""
    for case, result, expected in identical(method):
        expect(near(result, expected), f"{case}: merging identical models does not return that model")


def check_identical_models_give_that_model_exactly(method: type[Method]) -> None:
    """With default parameters, merging a model with itself returns it bit for bit."""
    for case, result, expected in identical(method):
        expect(same(result, expected), f"{case}: merging identical models does not return that model bit for bit")


def check_order_of_models_is_irrelevant(method: type[Method]) -> None:
    """Reordering the models along with their parameters changes the result only by float32 rounding.

    Cases that draw random numbers are skipped, because those depend on a model's position.
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
                expect(near(other, result), f"{case}: reordering the models gives another result")
    expect(compared, f"{method.__name__} never takes two models or always draws random numbers; do not claim symmetry")


def reverse(case: Case) -> Case:
    """Return the case with its per-model values in reverse order, except for a base among the models."""
    first = int(case.based and not case.subtracts)
    turned = {
        name: [*value[:first], *value[first:][::-1]] if isinstance(value, list) else value
        for name, value in case.parameters.items()
    }
    return replace(case, parameters=turned)


def identical(method: type[Method]) -> Iterator[tuple[Case, Tensor, Tensor]]:
    """Yield merges of copies of one model, with the expected result: the base plus the model's delta."""
    for count in counts(method):
        for case in by_default(method, count):
            base, model = replace(case, count=2, based=False).tensors(33, 70)
            if case.subtracts:
                yield case, case.merge([base, *[model] * count]), base + (model - base)
            else:
                yield case, case.merge([model] * count), model
