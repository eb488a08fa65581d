"""Sum of low-rank task vectors: a merge method that needs the whole tensor at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from mergecore.api import Context, DeltaMethod, PerModel, Tile, param


@dataclass(frozen=True, kw_only=True)
class LowRank(DeltaMethod):
    """Keep the largest singular values of each matrix delta and add the results. Vector deltas are added unchanged.

    result = base + sum(weight * U_k S_k V_k^T), with delta = U S V^T and k the number of singular values to keep
    """

    tile = Tile.TENSOR

    weight: PerModel[float] = param(1.0, "Scale of this model's task vector.")
    keep: float = param(0.25, "Fraction of the singular values to keep.", minimum=0.0, maximum=1.0)

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        return torch.stack([weight * self._low(delta) for weight, delta in zip(self.weight, deltas)]).sum(0)

    def _low(self, delta: Tensor) -> Tensor:
        if delta.ndim < 2 or not delta.numel() or not delta.isfinite().all():
            return delta  # torch.linalg.svd rejects NaN, which must show in the result
        left, values, right = torch.linalg.svd(delta.flatten(1), full_matrices=False)
        count = ceil(self.keep * len(values))
        return (left[:, :count] * values[:count] @ right[:count]).view_as(delta)
