"""Checks that results are bitwise independent of tiling, threads, repetition, and other tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from mergecore.api import BLOCK, Context, Method
from mergecore.discovery.parameters import declared
from mergecore_testing.conformance.cases import cases
from mergecore_testing.conformance.compare import expect, same

TILES = (1, 2 * BLOCK + 700)
"""Tile sizes, smaller than any tensor here. The first results in the smallest tiles: one block or one row."""


def check_tiles_change_no_bit(method: type[Method]) -> None:
    """The result is bitwise the same for any tiling, from single blocks or rows to the whole tensor."""
    for case in cases(method):
        exact = [tensor.double() for tensor in case.tensors(5, 9001)]
        for tensors in (exact, case.tensors(50, 7, 3, 40, coarse=True), case.tensors(3, 70_001)):
            whole, kind = case.merge(tensors), f"{list(tensors[0].shape)} of {tensors[0].dtype}"
            for elements in TILES:
                tiled = case.tiled(tensors, elements)
                result = tiled.merge(tiled.pieces, tiled.measured())
                expect(same(result, whole), f"{case}: {kind} in tiles of {elements} differs from the whole tensor")


def check_order_of_tiles_changes_no_bit(method: type[Method]) -> None:
    """Measuring again and merging tiles in reverse order changes nothing, so the method keeps no state."""
    for case in cases(method):
        tensors = case.tensors(5, 9001)
        tiled = case.tiled(tensors, 1)
        result = tiled.merge(tiled.pieces, tiled.measured())
        tiled.measured()
        backwards = tiled.merge(tiled.pieces[::-1], tiled.measured())
        expect(same(backwards, result), f"{case}: merging tiles in reverse order changes the result")


def check_threads_change_no_bit(method: type[Method]) -> None:
    """The result is bitwise the same for any number of torch threads."""
    for case in cases(method):
        tensors = case.tensors(3, 70_001)
        with threads(1):
            one = case.merge(tensors)
        with threads(3):
            three = case.merge(tensors)
        expect(same(one, three), f"{case}: one thread and three threads produce different bits")


def check_inputs_unchanged(method: type[Method]) -> None:
    """`measure`, `prepare`, and `merge` do not modify their inputs."""
    import torch

    for case in cases(method):
        for dtype in (torch.float32, torch.float64):
            tiled = case.tiled([tensor.to(dtype) for tensor in case.tensors(5, 7)], BLOCK)
            tile = tiled.seen(tiled.pieces[0])
            before = [tensor.clone() for tensor in tile]
            ctx = tiled.job.context([tile])
            expect(all(map(same, tile, before)), f"{case}: measure modifies its {dtype} tiles")
            prepared = case.made().prepare(tile, ctx)
            expect(all(map(same, tile, before)), f"{case}: prepare modifies its {dtype} inputs")
            before = [tensor.clone() for tensor in prepared]
            case.merge_prepared(prepared, ctx)
            expect(all(map(same, prepared, before)), f"{case}: merge modifies its {dtype} inputs")


def check_only_named_parameters_prepare(method: type[Method]) -> None:
    """Measured and prepared values depend only on the parameters in `measured_by`."""
    if method.measured_by is None:
        return
    known = list(cases(method))
    others = [item.attribute for item in declared(method).values() if item.attribute not in method.measured_by]
    for case in known:
        tiled = case.tiled(case.tensors(5, 9001), BLOCK)
        tensors, ctx = tiled.read(tiled.job, tiled.pieces[0]), tiled.measured()
        prepared = tiled.job.prepare(tensors, ctx)
        for other in known:
            made = replace(case.made(), **{name: getattr(other.made(), name) for name in others})  # type: ignore[type-var]
            job = replace(tiled.job, method=made)
            again = replace(tiled, job=job).measured()
            served, result = job.apply(None, prepared, ctx), job.apply(None, job.prepare(tensors, again), again)
            expect(same(served, result), f"{case}: measures or prepares by more than {', '.join(method.measured_by)}")


def check_randomness(method: type[Method]) -> None:
    """The same seed produces the same result, and random numbers come only from `ctx.random`."""
    import torch

    varied, drawing = False, False
    for case in cases(method):
        tensors, state = case.tensors(41, 67), torch.get_rng_state()
        with patch.object(Context, "random", autospec=True, side_effect=Context.random) as random:
            result = case.merge(tensors)
        expect(same(case.merge(tensors), result), f"{case}: merging again produces a different result")
        expect(torch.equal(torch.get_rng_state(), state), f"{case}: uses torch's generator instead of ctx.random")
        other = [case.merge(tensors, seed=1), case.merge(tensors, name="another")]
        changed = [not same(tensor, result) for tensor in other]
        expect(random.called or not any(changed), f"{case}: depends on the seed or the name without using ctx.random")
        varied, drawing = varied or all(changed), drawing or random.called
    expect(varied or not drawing, f"{method.__name__} draws random numbers, but the seed and the name change nothing")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Temporarily set the number of torch threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
