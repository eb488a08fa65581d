"""Checks of results: shape, dtype, known values, and propagation of NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mergecore.api import Method
from mergecore.errors import MergecoreError
from mergecore_testing.conformance.cases import Case, cases, counts, everywhere
from mergecore_testing.conformance.compare import expect, same

if TYPE_CHECKING:
    from torch import Tensor

SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (0,), (7,), (5, 3), (0, 3), (3, 0), (6, 1), (2, 3, 4), (2, 3, 4, 5))


def check_shape_and_dtype_kept(method: type[Method]) -> None:
    """Shape and dtype are kept for tensors with 0 to 4 dimensions, including empty ones, and for single tiles."""
    import torch

    for case in cases(method):
        for shape in SHAPES:
            for dtype in (torch.float32, torch.float64, torch.bfloat16):
                tensors = [tensor.to(dtype) for tensor in case.tensors(*shape)]
                _keeps_tile(case, tensors)
                result = case.merge(tensors)
                got, given = (tuple(result.shape), result.dtype), (shape, dtype)
                expect(got == given, f"{case}: the result has shape and dtype {got}, but its inputs have {given}")


def _keeps_tile(case: Case, tensors: Sequence[Tensor]) -> None:
    """Check that `merge` keeps the shape and dtype of its inputs."""
    tiled = case.tiled(tensors, 1)
    ctx = tiled.measured()
    for piece in tiled.pieces:
        tile = tiled.seen(piece)
        merged = case.merge_tile(tile, replace(ctx, offset=piece.start))
        got, given = (tuple(merged.shape), merged.dtype), (piece.shape, tile[0].dtype)
        expect(got == given, f"{case}: merge returns shape and dtype {got} for inputs with {given}")


def check_zero_deltas_give_the_base(method: type[Method]) -> None:
    """If every model equals the base, the result is the base, bit for bit."""
    for case in everywhere(method):
        if case.subtracts:
            base, *models = case.tensors(33, 70)
            result = case.merge([base] * (1 + len(models)))
            expect(same(result, base), f"{case}: models equal to the base do not return the base")


def check_ends_of_ranges_stay_finite(method: type[Method]) -> None:
    """Every parameter at either end of its range produces finite numbers or is rejected."""
    for case in everywhere(method):
        result = case.merge(case.tensors(5, 7))
        expect(result.isfinite().all(), f"{case}: the result is not finite")


def check_zeros_and_opposites_stay_finite(method: type[Method]) -> None:
    """Tensors of zeros and models that cancel out produce finite numbers."""
    import torch

    for case in cases(method):
        zeros = [torch.zeros_like(tensor) for tensor in case.tensors(5, 7)]
        expect(case.merge(zeros).isfinite().all(), f"{case}: tensors of zeros produce non-finite numbers")
        x, pairs = case.tensors(5, 7)[0], case.count // 2
        result = case.merge([*zeros[2 * pairs :], *[x, -x] * pairs])
        expect(result.isfinite().all(), f"{case}: models that cancel out produce non-finite numbers")


def check_nan_shows(method: type[Method]) -> None:
    """If an input element affects the result, NaN there results in NaN or a clear error."""
    for case in cases(method):
        tensors = case.tensors(7, 11)
        result = case.merge(tensors)
        for model in range(len(tensors)):
            for place in ((0, 0), (3, 5), (6, 10)):
                moved = case.merge(_with(tensors, model, place, -8 * float(tensors[model][place]) - 1))
                if moved[place] == result[place]:
                    continue
                try:
                    spoilt = case.merge(_with(tensors, model, place, float("nan")))
                except MergecoreError:
                    continue
                expect(spoilt[place].isnan(), f"{case}: NaN in an input becomes {float(spoilt[place])}")


def _with(tensors: Sequence[Tensor], model: int, place: tuple[int, int], value: float) -> list[Tensor]:
    """Return the tensors with one element changed."""
    changed = tensors[model].clone()
    changed[place] = value
    return [*tensors[:model], changed, *tensors[model + 1 :]]


def check_numbers_of_models(method: type[Method]) -> None:
    """Merging 1, 2, and 5 models works if `models` allows it, and each model affects the result."""
    for count in counts(method):
        moving: set[int] = set()
        for case in cases(method, count):
            tensors = case.tensors(5, 7)
            result = case.merge(tensors)
            expect(result.isfinite().all(), f"{case}: the result is not finite")
            for model in range(count):
                place = model + case.subtracts
                moved = [*tensors[:place], 1 - 2 * tensors[place], *tensors[place + 1 :]]
                if not same(case.merge(moved), result):
                    moving.add(model)
        silent = ", ".join(str(model) for model in range(count) if model not in moving)
        expect(not silent, f"{method.__name__}: of {count} models, number {silent} does not affect the result")
