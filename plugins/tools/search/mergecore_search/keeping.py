"""Keep what candidates share in memory: results of methods' `measure` and `prepare` on the same weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mergecore.api import Context, Job, Method, Piece, TileMerger, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

Tile = tuple["Tensor | None", Sequence["Tensor"]]
"""The stored tile of a base that is subtracted, and the tiles that a method gets or has prepared."""


class Kept:
    """A bounded cache with one value per place and the key it was computed for. Values that do not fit are not kept."""

    def __init__(self) -> None:
        self._values: dict[Hashable, tuple[Hashable, Any, int]] = {}
        self._keys: dict[Hashable, Hashable] = {}
        self._limit = 0
        self.held = 0
        """Size of the kept values in bytes."""
        self._turn = threading.Lock()

    def limit(self, size: int) -> None:
        """Limit the size to `size` bytes from now on."""
        self._limit = size
        if self.held > size:
            self._values.clear()
            self.held = 0

    def is_steady(self, place: Hashable, key: Hashable) -> bool:
        """Return whether a place has been used only with this key so far."""
        if self._keys.setdefault(place, key) != key:
            self._keys[place] = None
        return self._keys[place] == key

    def get(self, place: Hashable, key: Hashable, make: Callable[[], Any], keep: bool = True) -> Any:
        """Return the value of a place for a key, computing it if needed. Drop the value of any other key."""
        with self._turn:
            old, value, size = self._values.get(place, (None, None, 0))
            if old == key:
                return value
            self._values.pop(place, None)
            self.held -= size
        del value
        made = make()
        size = size_of(made)
        with self._turn:
            if keep and self.held + size <= self._limit:
                self._values[place] = key, made, size
                self.held += size
        return made


def size_of(value: Any) -> int:
    """Return the size in bytes of the tensors and arrays in a value."""
    if isinstance(value, (tuple, list)):
        return sum(map(size_of, value))
    if isinstance(value, dict):
        return size_of(list(value.values()))
    return int(getattr(value, "nbytes", 0))


class Keeping(TileMerger):
    """Merge jobs using what was kept from earlier candidates.

    If a method has prepared a tensor with the same parameters in all candidates, keep the prepared tensor. Otherwise
    keep the tensors of the models, unless they change too.
    """

    def __init__(self, *arguments: Any, kept: Kept, models: Sequence[Hashable]) -> None:
        """`models` has a key per model that is equal if its tensors are the same."""
        super().__init__(*arguments)
        self._kept, self._models = kept, models

    def context(self, job: Job) -> Context:
        if not job.measures:
            return super().context(job)
        tiles = Seen(job.pieces(self.tile), lambda piece: _floats(job, self._seen(job, piece)[1]))
        context: Context = self._kept.get(job.name, (self._inputs(job), _values(job)), partial(job.context, tiles))
        return context

    def made(self, job: Job, piece: Piece, ctx: Context) -> Tensor:
        if job.method is None:
            return super().made(job, piece, ctx)
        ctx = replace(ctx, offset=piece.start)
        base, tensors = self._prepared(job, piece, ctx) if _prepares(job) else self._seen(job, piece)
        first = None if base is None else _floats(job, [base])[0]
        return job.apply(first, _floats(job, tensors), ctx)

    def _prepared(self, job: Job, piece: Piece, ctx: Context) -> Tile:
        """Return a piece of what a job's method prepares."""
        assert job.method is not None
        method = job.method

        def make() -> Tile:
            base, tensors = self._seen(job, piece)
            return base, list(method.prepare(_floats(job, tensors), ctx))

        key = self._inputs(job), _values(job), piece
        found: Tile = self._kept.get((job.name, piece.start), key, make) if self._is_steady(job) else make()
        return found

    def _seen(self, job: Job, piece: Piece) -> Tile:
        """Return a piece of what a job's method gets. Models without a base stay in their stored dtypes."""
        make, key = partial(self._made_seen, job, piece), self._inputs(job)
        steady = self._kept.is_steady((job.name, "inputs"), key)
        if _prepares(job) and self._is_steady(job):
            return make()
        found: Tile = self._kept.get((job.name, piece.start), (key, piece), make, steady)
        return found

    def _made_seen(self, job: Job, piece: Piece) -> Tile:
        tensors = self.read(job, piece)
        stored = [x.to(torch_dtype(item.info.dtype)) for x, item in zip(tensors, job.inputs)]  # as they were read
        return (stored[0], job.models(tensors)) if job.has_base else (None, stored)

    def _is_steady(self, job: Job) -> bool:
        return self._kept.is_steady((job.name, "values"), (self._inputs(job), _values(job)))

    def _inputs(self, job: Job) -> Hashable:
        inputs = tuple((self._models[item.model], item.tensor, item.info) for item in job.inputs)
        return inputs, job.has_base, job.compute_dtype


class Seen(Sequence[Sequence["Tensor"]]):
    """The tiles that `measure` gets, each computed on access."""

    def __init__(self, pieces: Sequence[Piece], make: Callable[[Piece], Sequence[Tensor]]) -> None:
        self._pieces, self._make = pieces, make

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._pieces[index])


def _floats(job: Job, tensors: Sequence[Tensor]) -> list[Tensor]:
    dtype = torch_dtype(job.compute_dtype)
    return [tensor.to(dtype) for tensor in tensors]


def _prepares(job: Job) -> bool:
    return job.method is not None and type(job.method).prepare is not Method.prepare


def _values(job: Job) -> Hashable:
    """Return everything besides the inputs that affects what a job's method measures and prepares."""
    method = job.method
    assert method is not None
    names = method.measured_by if method.measured_by is not None else [field.name for field in fields(method)]  # type: ignore[arg-type]
    return type(method), tuple(getattr(method, name) for name in names), job.seed
