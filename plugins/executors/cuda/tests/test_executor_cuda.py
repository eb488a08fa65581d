"""The pipeline matches the threads executor bit for bit on the CPU, and closely on a GPU."""

import threading
import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from executed_tensors import made_by
from mergecore_cuda import CudaExecutor, feeder
from mergecore_cuda.copies import Copies
from mergecore_numerics import Masks
from method_recipes import RECIPES
from more_method_recipes import MORE
from tiny_llamas import write_model
from tiny_models import Tiny, layers

import mergecore
from mergecore.api import RunError, TileMerger, Work, merge_piece
from mergecore.builtin.threads import ThreadsExecutor
from mergecore.planning import stage_reader

CPU = torch.device("cpu")
EVERY = {**RECIPES, **MORE}
ROOM = 2 * 10**6
"""Enough bytes for two tiles of 2^14 elements but not for two of 2^15."""
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Pair(NamedTuple):
    """Named tuple, as a method might return it from `measure`."""

    left: Any
    right: Any


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("tiny"))


def recipes_of(tiny, method, **options):
    """Return the method's recipes for models with tensors larger than two of the smallest tiles."""
    recipes = EVERY[method](tiny.all("llama-tied", vocab_size=1500, **options), layers("llama-tied"))
    return [{"merge_method": method, **recipe} for recipe in recipes.values()]


def recipe_of(tiny, method, **options):
    """Return the second recipe, which has gradients or filters."""
    return recipes_of(tiny, method, **options)[1]


@pytest.mark.parametrize("method", EVERY)
def test_without_a_gpus_memory_its_bytes_are_those_of_threads(tiny, method, monkeypatch):
    monkeypatch.setattr(feeder, "RUN", 2**14 - 3)
    made = recipe_of(tiny, method)
    expected = made_by(ThreadsExecutor(), 1, made)
    for devices, tile, workers in ((1, 2**14, 1), (3, 2**15, 2)):
        got = made_by(CudaExecutor([CPU] * devices, tile), workers, made)
        assert all(torch.equal(got[name].view(torch.uint8), expected[name].view(torch.uint8)) for name in expected)


QUICK = ("linear", "ties", "dare_ties", "della", "karcher", "model_stock")


@pytest.mark.parametrize("method", [pytest.param(m, marks=[] if m in QUICK else [pytest.mark.slow]) for m in EVERY])
def test_a_stage_has_the_same_bytes_in_whatever_runs_it_is_read(tiny, method, monkeypatch):
    entries = [
        {"model": model, "parameters": {"weight": 0.3}} for model in ("stage", tiny("llama-tied", vocab_size=1500))
    ]
    made = [{"name": "stage", **recipe_of(tiny, method)}, {"merge_method": "linear", "models": entries}]
    expected = made_by(ThreadsExecutor(), 1, made)
    monkeypatch.setattr(feeder, "RUN", 2**14 - 3)
    monkeypatch.setattr(stage_reader, "TILE_ELEMENTS", 2**14)
    got = made_by(CudaExecutor([CPU] * 2, 2**15), 2, made)
    assert all(torch.equal(got[name].view(torch.uint8), expected[name].view(torch.uint8)) for name in expected)


@pytest.mark.parametrize(("room", "beside"), [(ROOM, False), (1000, True)])
def test_what_has_no_room_on_the_device_is_cut_smaller_or_made_beside_it(tiny, room, beside, monkeypatch):
    made = recipe_of(tiny, "slerp")
    expected = made_by(ThreadsExecutor(), 1, made)
    monkeypatch.setattr(Copies, "room", lambda self: room)
    here, make = [], TileMerger.make
    monkeypatch.setattr(TileMerger, "make", lambda self, job: (here.append(job.name), make(self, job)))
    got = made_by(CudaExecutor([CPU]), 1, made)
    assert bool(here) is beside
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("where", ["read", "write", "done"])
def test_the_first_error_ends_the_run_with_all_its_threads(tmp_path, where):
    models = [write_model(tmp_path / name, seed) for seed, name in enumerate("ab")]
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    plan = mergecore.plan({"merge_method": "linear", "models": entries})
    calls, before = [], threading.active_count()

    def fails(*_):
        calls.append(where)
        raise RunError("the disk is gone")

    nothing = {"read": lambda *_: None, "write": lambda *_: None, "done": lambda *_: None, where: fails}
    work = Work(plan.jobs, nothing["read"], nothing["write"], lambda _: None, nothing["done"], 2**26, 2)
    with pytest.raises(RunError, match="the disk is gone"):
        CudaExecutor([CPU, CPU]).run(work)
    plan.close()
    assert threading.active_count() == before
    assert len(calls) < len(plan.jobs)


def test_where_there_is_no_gpu_threads_do_it_and_a_sentence_says_so(tiny):
    made = recipe_of(tiny, "linear")
    expected = made_by(ThreadsExecutor(), 1, made)
    with pytest.warns(UserWarning, match="torch finds no GPU"):
        got = made_by(CudaExecutor([]), 2, made)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("method", [name for name in EVERY if "della" not in name])
def test_no_method_mixes_tensors_of_its_tiles_device_with_others(tiny, method, monkeypatch):
    """Merge on torch's meta device, which, like a GPU, rejects operations that mix in CPU tensors.

    Tensors cannot be copied back from it, so this does not cover DELLA, which sorts on the CPU, or cached masks.
    """
    monkeypatch.setattr(Masks, "get", lambda self, model, offset, like, make: make())
    copies = Copies(torch.device("meta"))
    for recipe in recipes_of(tiny, method):
        plan = mergecore.plan(recipe)
        merger = TileMerger(Work([], reader(plan), print, print, print, 0, 0), 2**14)
        jobs = [job for job in plan.jobs if ".1." in job.name]
        assert jobs
        for job in jobs:
            ctx = merger.context(job)
            ctx = replace(ctx, measured=copies.brought(ctx.measured))
            for piece in job.pieces(2**14):
                inputs = [torch.empty(piece.shape, device="meta") for _ in job.inputs]
                assert merge_piece(job, piece, inputs, ctx).device.type == "meta"
        plan.close()


def reader(plan):
    return lambda item, start, out: plan.checkpoints[item.model].read(item.tensor, start, out)


def test_measured_tensors_are_brought_along_and_nothing_else_is_touched():
    kept = object()
    measured = Pair([torch.ones(2), 3.0], {"a": (torch.ones(1), kept)})
    brought = Copies(torch.device("meta")).brought(measured)
    assert type(brought) is Pair and brought.left[0].is_meta and brought.left[1] == 3.0
    assert brought.right["a"][0].is_meta and brought.right["a"][1] is kept


@GPU
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", EVERY)
def test_a_gpus_values_are_within_one_unit_in_the_last_place(tiny, method, dtype):
    made = recipe_of(tiny, method, dtype=dtype)
    expected = made_by(ThreadsExecutor(), 1, made)
    for tile in (2**14, 2**24):
        for name, got in made_by(CudaExecutor(tile_elements=tile), 2, made).items():
            wanted = expected[name]
            up, down = (torch.nextafter(wanted, torch.full_like(wanted, end)) for end in (torch.inf, -torch.inf))
            assert ((got == wanted) | (got == up) | (got == down)).all(), name


@GPU
def test_a_gpu_draws_the_same_numbers():
    from mergecore.api.random import uniform

    for start in (0, 2**32 - 5):
        assert torch.equal(uniform("key", start, 10**6, "cuda").cpu(), uniform("key", start, 10**6))


def test_warnings_are_only_where_they_are_expected(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made_by(CudaExecutor([CPU]), 1, recipe_of(tiny, "linear"))
