"""The changes of LoHa, LoKr, VeRA, IA3, and OFT adapters: closed formulas of a weight and the adapter's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mergecore.api import Change, ModelError
from mergecore_lora.changes import LowRank, ReadUnchanged, Stored, held, row_blocks
from mergecore_lora.settings import Rotation, Settings

PARTS = {
    "LOHA": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    "LOKR": {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"},
    "VERA": {"vera_lambda_b", "vera_lambda_d"},
    "IA3": {"ia3_l"},
    "OFT": {"oft_R"},
}
"""The parts that PEFT stores of each module, by the type of adapter."""

Shape = tuple[int, ...]


def closed_form(
    settings: Settings,
    module: str,
    parts: Mapping[str, Stored],
    shared: Mapping[str, Stored],
    shape: Shape,
    transposed: bool,
) -> Mapping[str, Change] | None:
    """Return the changes of a module's weight and bias, or None if the parts do not fit the weight.

    Args:
        settings: the adapter's settings.
        module: the name of the module.
        parts: its parts.
        shared: the random matrices that all modules of VeRA share.
        shape: shape of the weight as it is stored.
        transposed: whether it is stored as (in, out).

    Raises:
        ModelError: A part has no closed formula, or is missing.
    """
    path, kind = settings.path.parent, settings.kind
    matrices = shared if kind == "VERA" else parts
    if len(shape) != 2 or any(len(item.shape) != 2 for item in matrices.values()):
        return None
    odd, missing = parts.keys() - PARTS[kind], (set() if kind == "LOKR" else PARTS[kind] - parts.keys())
    if odd or missing:
        what = f"{min(odd)!r} in" if odd else f"no {min(missing)!r} for"
        raise ModelError(f"{path}: has {what} {module!r}, so it cannot be added here; merge it with PEFT")
    if kind == "VERA" and len(shared) < 2:
        raise ModelError(f"{path}: lacks vera_A and vera_B; save the adapter with PEFT's save_projection=True")
    if kind == "IA3":
        return _ia3(parts["ia3_l"], shape, transposed)
    if kind == "OFT":
        change = _oft(parts["oft_R"], settings.rotation, shape)
    elif kind == "VERA":
        change = _vera(parts, shared, shape, transposed)
    else:
        scale = settings.scale(module, settings.rank_of(module))
        change = (_loha if kind == "LOHA" else _lokr)(parts, scale, shape)
    return None if change is None else {"weight": change}


def _loha(parts: Mapping[str, Stored], scale: float, shape: Shape) -> Change | None:
    """Return scale · (A1 @ B1) ∘ (A2 @ B2) (arXiv 2108.06098), or None if the parts do not fit the weight's shape."""
    rows, columns = shape
    pairs = [(parts[f"hada_{one}_a"], parts[f"hada_{one}_b"]) for one in ("w1", "w2")]
    if any((a.shape[0], b.shape[1], a.shape[1]) != (rows, columns, b.shape[0]) for a, b in pairs):
        return None

    def load() -> Callable[[int, int], Tensor]:
        (a1, b1), (a2, b2) = ((a.load(), b.load()) for a, b in pairs)
        return lambda first, last: scale * (a1[first:last] @ b1) * (a2[first:last] @ b2)

    return RowSum(rows, columns, load)


def _lokr(parts: Mapping[str, Stored], scale: float, shape: Shape) -> Change | None:
    """Return scale · W1 ⊗ W2, each whole or a product (arXiv 2309.14859), or None if they do not fit the shape."""
    rows, columns = shape
    one, two = (_whole_or_product(parts, f"lokr_{name}") for name in ("w1", "w2"))
    if one is None or two is None:
        return None
    (high, wide), load_one = one
    (low, narrow), load_two = two
    if (high * low, wide * narrow) != (rows, columns):
        return None

    def load() -> Callable[[int, int], Tensor]:
        left, right = scale * load_one(), load_two()

        def made(first: int, last: int) -> Tensor:
            numbers = torch.arange(first, last)
            return (left[numbers // low, :, None] * right[numbers % low, None, :]).flatten(1)

        return made

    return RowSum(rows, columns, load)


def _whole_or_product(parts: Mapping[str, Stored], name: str) -> tuple[Shape, Callable[[], Tensor]] | None:
    """Return the shape of a Kronecker factor, and what loads it."""
    if name in parts:
        return parts[name].shape, parts[name].load
    if not {f"{name}_a", f"{name}_b"} <= parts.keys():
        return None
    a, b = parts[f"{name}_a"], parts[f"{name}_b"]
    return (a.shape[0], b.shape[1]), lambda: a.load() @ b.load()


def _vera(parts: Mapping[str, Stored], shared: Mapping[str, Stored], shape: Shape, transposed: bool) -> Change | None:
    """Return diag(b) @ B @ diag(d) @ A with shared random matrices (arXiv 2310.11454), or None if they do not fit."""
    out, inner = shape[::-1] if transposed else shape
    b, d, a_all, b_all = parts["vera_lambda_b"], parts["vera_lambda_d"], shared["vera_A"], shared["vera_B"]
    if b.shape != (out,) or d.shape != a_all.shape[:1] or a_all.shape[1] < inner or b_all.shape[0] < out:
        return None
    return LowRank(Projected(b, d, a_all, b_all, *shape, transposed))


def _ia3(stored: Stored, shape: Shape, transposed: bool) -> dict[str, Change] | None:
    """Return the scaled weight and, for an output, the scaled bias (arXiv 2205.05638), or None if it does not fit.

    The vector has shape (out, 1) for outputs and (1, in) for inputs.
    """
    of_inputs = stored.shape[0] == 1 and stored.shape[1] > 1
    size, by_row = max(stored.shape), of_inputs is transposed
    if size != shape[0 if by_row else 1]:
        return None
    weight = Scaled(stored, shape[1], by_row)
    return {"weight": weight} if of_inputs else {"weight": weight, "bias": Scaled(stored, 1, True)}


def _oft(stored: Stored, rotation: Rotation, shape: Shape) -> Change | None:
    """Return the weight with rotated inputs, in blocks (arXiv 2306.07280), or None if they do not fit."""
    inner = shape[1]
    blocks, elements = stored.shape
    size = round((1 + (1 + 8 * elements) ** 0.5) / 2)
    if size * (size - 1) // 2 != elements or inner % size or blocks not in (1, inner // size):
        return None
    return Rotated(stored, rotation, *shape, size)


@dataclass(frozen=True, eq=False)
class RowSum:
    """Add a matrix that is computed by rows.

    Attributes:
        rows, columns: Size of the matrix.
        load: Reads the adapter and returns the function that computes a range of rows.
    """

    rows: int
    columns: int
    load: Callable[[], Callable[[int, int], Tensor]]

    def apply(self, start: int, values: Tensor, read: ReadUnchanged) -> None:
        """See `mergecore.api.Change`."""
        made = held(self, self.load)
        for part in row_blocks(start, len(values), self.rows, self.columns):
            values[part.piece] += made(part.first, part.last).reshape(-1)[part.block]


@dataclass(frozen=True, eq=False)
class Projected:
    """The two factors of a VeRA change. See `mergecore_lora.changes.LowRankFactors`."""

    b: Stored
    d: Stored
    a_all: Stored
    b_all: Stored
    rows: int
    columns: int
    transposed: bool

    def load(self) -> tuple[Tensor, Tensor]:
        """Return the two factors. The shared matrices are large enough for the largest weight, so they are cut."""
        out, inner = (self.columns, self.rows) if self.transposed else (self.rows, self.columns)
        left = self.b.load()[:, None] * self.b_all.load()[:out]
        right = self.d.load()[:, None] * self.a_all.load()[:, :inner]
        left, right = (right.mT, left.mT) if self.transposed else (left, right)
        return left[None].contiguous(), right[None].contiguous()


@dataclass(frozen=True, eq=False)
class Scaled:
    """Multiply each row, or each column, by its own factor."""

    vector: Stored
    columns: int
    by_row: bool

    def apply(self, start: int, values: Tensor, read: ReadUnchanged) -> None:
        """See `mergecore.api.Change`."""
        numbers = torch.arange(start, start + len(values))
        factors = held(self, self.vector.load).flatten()
        values *= factors[numbers // self.columns if self.by_row else numbers % self.columns]


@dataclass(frozen=True, eq=False)
class Rotated:
    """Rotate the inputs of a linear layer in blocks of `size`. One block can be shared by all."""

    vectors: Stored
    rotation: Rotation
    rows: int
    columns: int
    size: int

    def apply(self, start: int, values: Tensor, read: ReadUnchanged) -> None:
        """See `mergecore.api.Change`."""
        turns = held(self, partial(_rotations, self.vectors, self.rotation, self.size))
        for part in row_blocks(start, len(values), self.rows, self.columns):
            rows = torch.empty((part.last - part.first) * self.columns)
            read(part.first * self.columns, rows)
            blocks = rows.view(-1, self.columns // self.size, self.size)
            turned = torch.einsum("rki,koi->rko", blocks, turns.expand(blocks.shape[1], -1, -1))
            values[part.piece] = turned.reshape(-1)[part.block]


def _rotations(vectors: Stored, rotation: Rotation, size: int) -> Tensor:
    """Return the rotation of each block: Cayley's formula of a skew-symmetric matrix, or its Neumann series."""
    skew = torch.zeros(vectors.shape[0], size, size, dtype=torch.float64)
    rows, columns = torch.triu_indices(size, size, 1)
    skew[:, rows, columns] = vectors.load().double()
    skew = skew - skew.mT
    if rotation.eps is not None:
        bound = rotation.eps / len(skew) ** 0.5
        norms = skew.flatten(1).norm(dim=1)[:, None, None]
        skew = torch.where(norms <= bound, skew, bound * skew / norms)
    one = torch.eye(size, dtype=torch.float64).expand_as(skew)
    if not rotation.terms:
        return torch.linalg.solve(one + skew, one - skew, left=False).float()
    total, power, last = one.clone(), one, (4 if rotation.terms == 3 else rotation.terms) - 1
    for number in range(1, last + 1):
        power = power @ skew
        total += power if number == last > 1 else 2 * power
    return total.float()
