"""A tensor that is computed on read does not depend on the start and length of reads, and is not kept longer than
necessary."""

from __future__ import annotations

import pickle
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergecore.api import BLOCK, DeltaMethod, Input, Job, Method, TensorInfo, Tile, TileMerger, WeightMethod, Work
from mergecore.models.checkpoint import Checkpoint
from mergecore.models.layout_reader import LayoutReader, Span
from mergecore.planning import stage_reader
from mergecore.planning.stage_reader import StageReader, read_cost, stage_readers

NAME = "x"


@dataclass(frozen=True)
class Elements(DeltaMethod):
    tile = Tile.ELEMENTS

    def measure(self, tiles, ctx):
        return max(float(tile[0].abs().max()) for tile in tiles)

    def merge(self, deltas, ctx):
        return torch.tanh(deltas[0]) * ctx.measured + ctx.random(0, deltas[0])


@dataclass(frozen=True)
class Rows(WeightMethod):
    tile = Tile.ROWS

    def merge(self, weights, ctx):
        return weights[0] / (weights[1].norm(dim=-1, keepdim=True) + 1)


@dataclass(frozen=True)
class Whole(WeightMethod):
    pause: float = 0.0
    calls: list[int] = field(default_factory=list)

    def merge(self, weights, ctx):
        time.sleep(self.pause)
        self.calls.append(1)
        return weights[0] * weights[1].norm()


class InMemory:
    """A reader with one tensor that counts the elements read."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensors = {NAME: TensorInfo("F32", tuple(tensor.shape))}
        self._flat, self.read_so_far = tensor.flatten(), 0

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        self.read_so_far += 4 * len(out)
        out.copy_(self._flat[start : start + len(out)])


def models(shape: tuple[int, ...]) -> list[Checkpoint]:
    readers = [InMemory(torch.randn(shape, generator=torch.Generator().manual_seed(seed))) for seed in range(2)]
    return [Checkpoint(f"m{n}", Path(), {}, reader.tensors, {NAME: reader}, [], {}) for n, reader in enumerate(readers)]


def stage(method: Method | None, sources: list[Checkpoint], dtype: str = "BF16") -> StageReader:
    inputs = tuple(Input(n, NAME, model.tensors[NAME], read_cost(model.readers[NAME], NAME).memory)
                   for n, model in enumerate(sources))  # fmt: skip
    info = TensorInfo(dtype, inputs[0].info.shape)
    job = Job(NAME, info, inputs if method else inputs[:1], method, isinstance(method, DeltaMethod), 7)
    return StageReader([job], sources)


def shown(reader: StageReader, name: str = "stage") -> Checkpoint:
    return Checkpoint(name, Path(), {}, reader.tensors, {NAME: reader}, (), {})


def written(reader: StageReader) -> torch.Tensor:
    """Return the tensors that a run of the stage would write."""
    job, checkpoints = reader.job(NAME)
    out = torch.empty(job.info.elements, dtype=getattr(torch, {"BF16": "bfloat16", "F32": "float32"}[job.info.dtype]))

    def write(name: str, start: int, data: torch.Tensor) -> None:
        out[start : start + len(data)] = data

    work = Work([], lambda item, start, data: checkpoints[item.model].read(item.tensor, start, data), write,
                lambda _: None, lambda _: None, 0, 1)  # fmt: skip
    TileMerger(work, BLOCK).make(job)
    return out


@pytest.mark.parametrize("method", [Elements(), Rows(), Whole(), None], ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("shape", [(50, 1000), (BLOCK * 2 + 77,), (3, 7, 11), ()])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_run_of_elements_is_that_of_the_written_tensor(method, shape, data) -> None:
    stage_reader.TILE_ELEMENTS, tile = BLOCK, stage_reader.TILE_ELEMENTS
    try:
        lower = stage(method, models(shape))
        for reader in (lower, stage(Rows(), [shown(lower), shown(lower)], "F32")):
            expected = written(reader)
            start = data.draw(st.integers(0, len(expected)))
            out = torch.full((data.draw(st.integers(0, len(expected) - start)),), float("nan"), dtype=expected.dtype)
            reader.read(NAME, start, out)
            assert torch.equal(out, expected[start : start + len(out)])
    finally:
        stage_reader.TILE_ELEMENTS = tile


def test_a_whole_tensor_is_made_once_for_all_threads_until_it_is_released() -> None:
    method = Whole(0.05)
    reader = stage(method, models((40, 1000)))
    outs = [torch.empty(10_000, dtype=torch.bfloat16) for _ in range(4)]
    threads = [threading.Thread(target=reader.read, args=(NAME, 10_000 * n, out)) for n, out in enumerate(outs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(method.calls) == 1 and torch.equal(torch.cat(outs), written(reader))
    reader.release(NAME)
    reader.read(NAME, 0, outs[0])
    assert len(method.calls) == 3  # the written model is a different one


def test_to_release_goes_down_to_the_first_stage_through_all_that_shows_it() -> None:
    method = Whole()
    lower = stage(method, models((40, 10)), "F32")
    views = LayoutReader({NAME: lower}, {"half": TensorInfo("F32", (20, 10))}, {"half": [Span(NAME, 200, 200)]})
    assert list(stage_readers(views, "half")) == [(lower, NAME)]
    half = Checkpoint("half", Path(), {}, {NAME: views.tensors["half"]}, {NAME: _Renamed(views)}, (), {})
    upper = stage(Rows(), [half, half], "F32")
    out = torch.empty(200)
    for calls in (1, 1, 2):
        if calls == 2:
            upper.release(NAME)
        upper.read(NAME, 0, out)
        assert len(method.calls) == calls


class _Renamed:
    """A view with the name that the next stage expects."""

    def __init__(self, views: LayoutReader) -> None:
        self.tensors, self._views = {NAME: views.tensors["half"]}, views

    def read(self, name: str, start: int, out: torch.Tensor) -> None:
        self._views.read("half", start, out)

    def parts(self, name: str):
        return [(self._views, "half", 200)]

    def close(self) -> None: ...


@pytest.mark.parametrize("upper", [Elements(), Rows(), Whole()], ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("lower", [Elements(), Rows(), Whole(), None], ids=lambda method: type(method).__name__)
def test_the_cost_is_what_is_read(lower, upper) -> None:
    """A method with tiles reads its inputs twice. A whole tensor is read only once, even with several passes."""
    sources = models((64, 512))
    reader = stage(upper, [shown(stage(lower, sources)), sources[1]])
    price = read_cost(reader, NAME)
    for times in (1, 2):
        for source in sources:
            source.readers[NAME].read_so_far = 0
        reader.release(NAME)
        for _ in range(times):
            reader.read(NAME, 0, torch.empty(64 * 512, dtype=torch.bfloat16))
        assert sum(source.readers[NAME].read_so_far for source in sources) == price.once + times * price.each
    assert price.memory >= stage(upper, sources).job(NAME)[0].memory(BLOCK)


def test_another_process_gets_what_makes_it_and_nothing_that_is_held() -> None:
    reader = stage(Rows(), models((40, 1000)))
    expected, out = written(reader), torch.empty(40_000, dtype=torch.bfloat16)
    reader.read(NAME, 0, out)
    other = pickle.loads(pickle.dumps(reader))
    other.read(NAME, 0, out.zero_())
    assert torch.equal(out, expected)
