"""`merge_tiled` matches the in-memory merge and passes the tiles that a method asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from mergecore_testing.tiling import merge_tiled
from torch import Tensor

from mergecore.api import BLOCK, Context, DeltaMethod, Tile


@dataclass(frozen=True, kw_only=True)
class Seen(DeltaMethod):
    """Add each tile's length to its first element."""

    tile = Tile.ELEMENTS

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        total = torch.stack(list(deltas)).sum(0)
        total.view(-1)[0] += deltas[0].numel()
        return total


@dataclass(frozen=True, kw_only=True)
class SeenRows(Seen):
    """The same method for tiles of rows."""

    tile = Tile.ROWS


@pytest.mark.parametrize("elements", [BLOCK, 2 * BLOCK, 10**9])
def test_flat_tiles_are_blocks(elements: int) -> None:
    base, model = torch.ones(5, 9000), torch.full((5, 9000), 3.0)
    merged = merge_tiled(Seen(), [model, model], elements, base=base).view(-1) - 5
    starts = list(range(0, 45000, elements))
    assert merged.nonzero().view(-1).tolist() == starts
    assert merged[starts].tolist() == [min(elements, 45000 - start) for start in starts]


def test_rows_stay_whole_and_shape_and_dtype_are_kept() -> None:
    model = torch.zeros(4, 2, 3, dtype=torch.bfloat16)
    merged = merge_tiled(SeenRows(), [model], 1, base=model)
    assert merged.dtype == torch.bfloat16 and merged[:, 0, 0].tolist() == [6] * 4
    assert merge_tiled(SeenRows(), [model[:0]], 1, base=model[:0]).shape == (0, 2, 3)
