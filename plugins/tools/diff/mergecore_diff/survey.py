"""Measure lined-up models: read them tile by tile on all cores and accumulate the differences."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from mergecore_numerics import dots
from torch import Tensor

from mergecore.api import TensorInfo, in_threads, keep_freed_pages, torch_dtype
from mergecore.tooling import shards_of
from mergecore_diff.lineup import Lineup, Row
from mergecore_diff.ranks import Rank, Spectrum
from mergecore_diff.sums import Change, Clash, total_change, total_clash

TILE = 2**20
"""Maximum number of elements of each model that a thread holds in memory."""


@dataclass(frozen=True)
class Measured:
    """One weight: its shape, the change and its effective rank (matrices only) per model, and the clash per pair."""

    row: Row
    shape: tuple[int, ...]
    changes: Mapping[int, Change]
    clashes: Mapping[tuple[int, int], Clash]
    ranks: Mapping[int, Rank]


@dataclass(frozen=True)
class Survey:
    """A line-up of models and the measurement of each row, in order."""

    lineup: Lineup
    measured: Sequence[Measured]

    def change(self, model: int, items: Iterable[Measured] | None = None) -> Change:
        """Return a model's change over the given weights, or over all."""
        chosen = self.measured if items is None else items
        return total_change(item.changes[model] for item in chosen if model in item.changes)

    def clash(self, pair: tuple[int, int], items: Iterable[Measured] | None = None) -> Clash:
        """Return the clash of two models over the given weights, or over all."""
        chosen = self.measured if items is None else items
        return total_clash(item.clashes[pair] for item in chosen if pair in item.clashes)

    def rank(self, model: int, items: Iterable[Measured]) -> Rank | None:
        """Return the mean effective rank of a model's changes to the given matrices, or None if there are none."""
        found = [item.ranks[model] for item in items if model in item.ranks]
        return Rank(sum(r.value for r in found) / len(found), all(r.exact for r in found)) if found else None

    @property
    def layers(self) -> dict[str, list[Measured]]:
        """Weights grouped by layer."""
        return _grouped((item.row.layer, item) for item in self.measured if item.row.layer)

    @property
    def kinds(self) -> dict[str, list[Measured]]:
        """Weights inside the layers, grouped by kind."""
        return _grouped((item.row.kind, item) for item in self.measured if item.row.layer)

    @property
    def outside(self) -> dict[str, list[Measured]]:
        """Weights outside the layers, grouped by kind."""
        return _grouped((item.row.kind, item) for item in self.measured if not item.row.layer)


def _grouped(items: Iterable[tuple[str, Measured]]) -> dict[str, list[Measured]]:
    groups: dict[str, list[Measured]] = {}
    for label, item in items:
        groups.setdefault(label, []).append(item)
    return groups


def bytes_to_read(lineup: Lineup) -> int:
    """Return the total size in bytes of all rows of a line-up."""
    return sum(_info(lineup, model, name).nbytes for row in lineup.rows for model, name in row.tensors.items())


def survey(lineup: Lineup, workers: int, advance: Callable[[int], None] = lambda count: None) -> Survey:
    """Measure every row of a line-up.

    Args:
        lineup: The models.
        workers: Number of threads. Each holds one tile of every model.
        advance: Called with the number of bytes processed, by one thread at a time.
    """
    _fetch(lineup)
    keep_freed_pages()
    order = sorted(range(len(lineup.rows)), key=lambda place: -_size(lineup, lineup.rows[place]))
    queue, turn = deque(order), threading.Lock()
    found: dict[int, Measured] = {}
    errors: list[BaseException] = []

    def advanced(count: int) -> None:
        with turn:
            advance(count)

    def worker() -> None:
        torch.set_num_threads(1)
        while not errors:
            try:
                place = queue.popleft()
            except IndexError:
                return
            found[place] = measure(lineup, lineup.rows[place], advanced, errors)

    in_threads([worker] * workers, errors)
    if errors:
        raise errors[0]
    return Survey(lineup, [found[place] for place in range(len(lineup.rows))])


def _fetch(lineup: Lineup) -> None:
    """Download the required weight files that are not on disk yet from the Hub."""
    tensors = [(lineup.checkpoints[model], name) for row in lineup.rows for model, name in row.tensors.items()]
    shards = (shard for checkpoint, name in tensors for shard in shards_of(checkpoint.readers[name], name))
    for shard in dict.fromkeys(shards):
        if not shard.here:
            shard.fetch(lambda count: None)


def measure(lineup: Lineup, row: Row, advance: Callable[[int], None], errors: Sequence[BaseException] = ()) -> Measured:
    """Measure one weight."""
    models, shape = sorted(row.tensors)[1:], _info(lineup, 0, row.tensors[0]).shape
    pairs = [(one, other) for one in models for other in models if one < other]
    changes, clashes = dict.fromkeys(models, Change()), dict.fromkeys(pairs, Clash())
    spectra: dict[int, Spectrum] = {}
    for base, *deltas in _tiles(lineup, row, shape, advance):
        if errors:
            break
        signs = [delta.reshape(-1).sign().nan_to_num_(0.0) for delta in deltas]
        changed, found = [sign.abs() for sign in signs], _products(base, deltas)
        for place, model in enumerate(models):
            count = int(changed[place].sum())
            here = Change(base.numel(), count, found[0, 0], found[0, place + 1], found[place + 1, place + 1])
            changes[model] = total_change([changes[model], here])
            if _is_matrix(shape):
                spectrum = spectra.setdefault(model, Spectrum(math.prod(shape[:-1]), shape[-1], base.dtype))
                spectrum.add(deltas[place].view(-1, shape[-1]))
        for one, other in pairs:
            i, j = models.index(one), models.index(other)
            both, agreeing = int(changed[i] @ changed[j]), int(signs[i] @ signs[j])
            sums = (found[i + 1, i + 1], found[i + 1, j + 1], found[j + 1, j + 1])
            clashes[one, other] = total_clash([clashes[one, other], Clash(*sums, both, (both - agreeing) // 2)])
    return Measured(row, shape, changes, clashes, {model: spectrum.rank() for model, spectrum in spectra.items()})


def _is_matrix(shape: Sequence[int]) -> bool:
    """Return whether a weight counts as a matrix. A stack of matrices counts as one tall matrix."""
    return len(shape) in (2, 3) and 0 < shape[-1] <= TILE


def _products(base: Tensor, deltas: Sequence[Tensor]) -> dict[tuple[int, int], float]:
    """Return the dot products of a tile's base (0) and changes (1, 2, ...), each pair once."""
    tile = [tensor.reshape(-1) for tensor in (base, *deltas)]
    pairs = [(one, other) for other in range(len(tile)) for one in range(other + 1)]
    return dict(zip(pairs, dots([tile], pairs)))


def _tiles(lineup: Lineup, row: Row, shape: Sequence[int], advance: Callable[[int], None]) -> Iterator[list[Tensor]]:
    """Yield the base and the differences from it, about `TILE` elements at a time. Matrices are cut between rows."""
    infos = {model: _info(lineup, model, name) for model, name in row.tensors.items()}
    dtype = torch.float64 if any(info.dtype == "F64" for info in infos.values()) else torch.float32
    total, columns = infos[0].elements, shape[-1] if _is_matrix(shape) else 1
    step = TILE // columns * columns
    for start in range(0, total, step):
        count = min(step, total - start)
        tensors = []
        for model in sorted(row.tensors):
            stored = torch.empty(count, dtype=torch_dtype(infos[model].dtype))
            lineup.checkpoints[model].read(row.tensors[model], start, stored)
            tensors.append(stored.to(dtype))
            advance(stored.nbytes)
        yield [tensors[0], *(tensor - tensors[0] for tensor in tensors[1:])]


def _info(lineup: Lineup, model: int, name: str) -> TensorInfo:
    return lineup.checkpoints[model].tensors[name]


def _size(lineup: Lineup, row: Row) -> int:
    return _info(lineup, 0, row.tensors[0]).elements
