"""Merge adapters by concatenating their factors, or by applying a method in the small space that they share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergecore.api import Base, DeltaMethod, InputError, Method, ModelError, Reader
from mergecore.tooling import Checkpoint, Registry, find_adapter, merge_tensors, open_adapter
from mergecore_lora.changes import Stored
from mergecore_lora.keys import PART, plain_key
from mergecore_lora.programs import Program
from mergecore_lora.settings import KINDS, Settings, read_settings, stated
from mergecore_lora.writing import TensorFile, peft_config, write_adapter

EXACT = "exact"
"""Name of the plain weighted sum of all changes, which needs no method."""

HEADS = ("lm_head", "embed_out", "output_layer")
"""Names of heads that write text."""

NEGLIGIBLE = 1e-6
"""Singular values below this share of the largest are rounding noise."""


@dataclass(frozen=True)
class Opened:
    """An adapter that consists only of low-rank changes.

    Attributes:
        pairs: Whether it is an embedding, A (rank, in), and B (out, rank) as stored, by module.
        stamps: The stamp of its weight file.
    """

    folder: Path
    settings: Settings
    pairs: Mapping[str, tuple[bool, Stored, Stored]]
    stamps: Mapping[Path, Any]

    def factors(self, module: str) -> tuple[Tensor, Tensor] | None:
        """Return scale · B (out, rank) and A (rank, in) of a module in float32, or None if it is unchanged."""
        if module not in self.pairs:
            return None
        _, a, b = self.pairs[module]
        right, left = a.load(), b.load()
        return self.settings.scale(module, right.shape[0]) * left, right


@dataclass(frozen=True)
class MergeOptions:
    """How to merge adapters.

    Attributes:
        method: Name of the method, or `EXACT`.
        weights: One weight per adapter.
        parameters: Parameters of the method, other than the weights.
        rank: Maximum rank of a result. None: no limit.
        own_ranks: Whether every module keeps its own rank. Otherwise, zeros fill up all to the largest.
        dtype: Dtype of the factors.
        program: The program for which to leave out what it cannot read.
    """

    method: str
    weights: Sequence[float]
    parameters: Mapping[str, Any]
    rank: int | None
    own_ranks: bool
    dtype: torch.dtype
    program: Program


def merge(adapters: Sequence[str], out: Path, options: MergeOptions, registry: Registry, *, force: bool) -> Any:
    """Merge adapters into one, write it, and return its report.

    Raises:
        InputError: An adapter has more than low-rank changes, the adapters do not match, or the method cannot be
            used.
    """
    method = None if options.method == EXACT else registry.provide("methods", options.method)
    if method is not None and "weight" in {field.name for field in fields(method)}:
        options = replace(options, parameters={"weight": list(options.weights), **options.parameters})
    with _opened(adapters, registry) as opened:
        bases = list(dict.fromkeys(stated(item.folder, "base_model_name_or_path") for item in opened))
        merger = Merger(opened, options, method)
        folders = [item.folder for item in opened]
        stamps = {path: stamp for item in opened for path, stamp in item.stamps.items()}
        return write_adapter(out, folders, stamps, force, lambda file: merger.fill(file, bases))


@contextmanager
def _opened(adapters: Sequence[str], registry: Registry) -> Iterator[list[Opened]]:
    files: list[Checkpoint] = []
    try:
        yield [_open(find_adapter(reference), registry, files) for reference in adapters]
    finally:
        for file in files:
            file.close()


def _open(folder: Path, registry: Registry, files: list[Checkpoint]) -> Opened:
    settings = read_settings(folder)
    if settings.kind != "LORA":
        raise ModelError(f"{folder}: only LoRA can be merged, not {KINDS[settings.kind]}; merge BASE+ADAPTER as models")
    files.append(open_adapter(folder, registry))
    (path,), (reader,) = files[-1].stamps, files[-1].files
    return Opened(folder, settings, _pairs(path, reader, settings), files[-1].stamps)


def _pairs(path: Path, reader: Reader, settings: Settings) -> dict[str, tuple[bool, Stored, Stored]]:
    found: dict[str, dict[str, Stored]] = {}
    for key in reader.tensors:
        match = PART.fullmatch(plain_key(key))
        if match is None or match[4] == ".bias" or match[2] == "lora_magnitude_vector":
            cure = "merge BASE+ADAPTER as models, then extract an adapter"
            raise ModelError(f"{path}: {key!r} is not a low-rank change; {cure}")
        found.setdefault(match[1], {})[match[2][-1] + ("e" if "embedding" in match[2] else "")] = Stored(reader, key)
    pairs = {}
    for module, parts in found.items():
        embedding = "Ae" in parts or "Be" in parts
        a, b = (parts.get(letter + ("e" if embedding else "")) for letter in "AB")
        if a is None or b is None or len(parts) != 2:
            raise ModelError(f"{path}: {next(iter(parts.values())).name!r} has no matching factor")
        rank = settings.rank_of(module)
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise ModelError(
                f"{path}: {a.name!r} {list(a.shape)} and {b.name!r} {list(b.shape)} are not a pair of rank {rank} for"
                " one matrix; merge BASE+ADAPTER as models, then extract an adapter"
            )
        pairs[module] = (embedding, a, b)
    return pairs


@dataclass
class Merger:
    """Merge several adapters module by module."""

    adapters: Sequence[Opened]
    options: MergeOptions
    method: type[Method] | None

    def fill(self, file: TensorFile, bases: Sequence[str | None]) -> tuple[Any, Any]:
        """Add the merged factors to a file. Return the adapter's config and the report."""
        names = " and ".join(str(item.folder) for item in self.adapters)
        notes = [] if self.method is None or self._turns() else [_NOTE.format(method=self.options.method)]
        if len(bases) > 1:
            notes.append(f"the adapters list different base models: {', '.join(map(str, bases))}; the first is kept")
        every = sorted({module for item in self.adapters for module in item.pairs})
        modules = [module for module in every if self.options.program.reads("lora", table=self._is_table(module))]
        outcomes = [outcome for module in modules if (outcome := self._merge(module, file))]
        if not outcomes:
            raise ModelError(f"{names}: their changes cancel out; there is nothing to write")
        total = math.fsum(found["norm"] ** 2 for found in outcomes)
        lost = math.fsum((found["error"] * found["norm"]) ** 2 for found in outcomes)
        ranks = {found["name"]: found["rank"] for found in outcomes}
        if not self.options.own_ranks:
            ranks = dict.fromkeys(ranks, max(ranks.values()))
            file.fill_up(max(ranks.values()))
        tasks = self._stated("task_type")
        if len(tasks) > 1:
            notes.append(f"the adapters are for different tasks: {', '.join(map(str, tasks))}; the first is kept")
        notes += self.options.program.notes(max(ranks.values()), [name for name in every if name not in modules])
        rest = {"revision": found[0]} if len(found := self._stated("revision")) == len(bases) == 1 else {}
        rest |= {key: any(self._stated(key)) for key in ("fan_in_fan_out", "ensure_weight_tying")}
        if len({item.settings.tied for item in self.adapters}) > 1:
            notes.append("only some adapters set ensure_weight_tying; the result does, so a tied head changes with all")
        config = peft_config(str(bases[0] or ""), tasks[0] if tasks else None, ranks, {}, modules, **rest)
        return config, {
            "how": f"merged from {names} ({self.options.method})",
            "base": bases[0],
            "notes": notes,
            "error": math.sqrt(lost / total) if total else 0.0,
            "tensors": outcomes,
        }

    def _is_table(self, module: str) -> bool:
        """Return whether a module is an embedding or a head."""
        embedding = any(item.pairs[module][0] for item in self.adapters if module in item.pairs)
        return embedding or module.rpartition(".")[2] in HEADS

    def _stated(self, key: str) -> list[Any]:
        """Return the different values of a key in the adapters' configs."""
        return list(dict.fromkeys(value for item in self.adapters if (value := stated(item.folder, key))))

    def _merge(self, module: str, file: TensorFile) -> dict[str, Any] | None:
        """Merge one module. Return None if nothing is left of it."""
        factors = [item.factors(module) for item in self.adapters]
        self._check(module)
        left, right, norm, error = self._sum(factors) if self.method is None else self._by_method(module, factors)
        if not right.shape[0]:
            return None
        left, right = left.to(self.options.dtype), right.to(self.options.dtype)
        embedding = next(item.pairs[module][0] for item in self.adapters if module in item.pairs)
        file.add_factors(module, right, left, embedding=embedding)
        return {"name": module, "how": "lora", "rank": right.shape[0], "error": error, "norm": norm}

    def _check(self, module: str) -> None:
        found = [(item, item.pairs[module]) for item in self.adapters if module in item.pairs]
        shapes = {(pair[0], pair[2].shape[0], pair[1].shape[1]): item for item, pair in found}
        if len(shapes) > 1:
            sizes = ", ".join(f"({out}, {width}) in {item.folder}" for (_, out, width), item in shapes.items())
            raise ModelError(f"{module}: the adapters are for models of different shapes: {sizes}")

    def _sum(self, factors: Sequence[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor, float, float]:
        """Return the weighted sum: concatenated factors, truncated to the requested rank."""
        there = [(weight, *pair) for weight, pair in zip(self.options.weights, factors) if pair is not None and weight]
        if not there:
            return torch.empty(0, 0), torch.empty(0, 0), 0.0, 0.0
        left = torch.cat([weight * b for weight, b, _ in there], dim=1)
        right = torch.cat([a for _, _, a in there])
        turn_left, turn_right, core = _core(left, right)
        norm = core.norm().item()
        if self.options.rank is None or self.options.rank >= right.shape[0]:
            return left, right, norm, 0.0
        return *self._cut(turn_left, core, turn_right), norm, self._lost(core)

    def _by_method(
        self, module: str, factors: Sequence[tuple[Tensor, Tensor] | None]
    ) -> tuple[Tensor, Tensor, float, float]:
        """Apply the method to the changes in the directions that they span together."""
        there = [pair for pair in factors if pair is not None]
        turn_left, turn_right, _ = _core(torch.cat([b for b, _ in there], 1), torch.cat([a for _, a in there]))
        empty = torch.zeros(turn_left.shape[1], turn_right.shape[1])
        cores = [empty if pair is None else (turn_left.T @ pair[0]) @ (pair[1] @ turn_right) for pair in factors]
        rotate_left, rotate_right = _principal(torch.cat(cores, 1)), _principal(torch.cat(cores).T)
        turned = [rotate_left.T @ core @ rotate_right for core in cores]
        merged = self._call(turned, module)
        left, right = self._cut(turn_left @ rotate_left, merged, turn_right @ rotate_right)
        return left, right, merged.norm().item(), self._lost(merged)

    def _call(self, changes: Sequence[Tensor], name: str) -> Tensor:
        """Apply the method to changes. Their base is zero, or the first change if the method starts from a model."""
        assert self.method is not None
        subtracts = issubclass(self.method, DeltaMethod) and self.method.base is not Base.INPUT
        tensors = [torch.zeros_like(changes[0]), *changes] if subtracts else list(changes)
        base = 0 if subtracts or self.method.base is Base.REQUIRED else None
        return merge_tensors(tensors, self.method, self.options.parameters, base=base, name=name)

    def _turns(self) -> bool:
        """Return whether the method is invariant to rotations of the changes, as tested on random ones."""
        random = torch.Generator().manual_seed(0)
        changes = [torch.randn(7, 5, generator=random) for _ in self.adapters]
        turns = [torch.linalg.qr(torch.randn(size, size, generator=random)).Q for size in (7, 5)]
        before = turns[0] @ self._call(changes, "tried") @ turns[1]
        after = self._call([turns[0] @ change @ turns[1] for change in changes], "tried")
        return bool((before - after).norm() <= 1e-4 * before.norm())

    def _cut(self, left: Tensor, core: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Split left @ core @ right.T into two factors of the lowest possible rank, at most the requested one."""
        u, s, vh = torch.linalg.svd(core, full_matrices=False)
        rank = int((s > NEGLIGIBLE * s.max()).sum()) if s.numel() and s.max() > 0 else 0
        rank = rank if self.options.rank is None else min(rank, self.options.rank)
        root = s[:rank].sqrt()
        return left @ (u[:, :rank] * root), (root[:, None] * vh[:rank]) @ right.T

    def _lost(self, core: Tensor) -> float:
        """Return the norm of the part truncated by the requested rank, relative to the whole."""
        squares = torch.linalg.svdvals(core.double()).square()
        total, rank = squares.sum(), self.options.rank
        return math.sqrt(squares[rank:].sum() / total) if rank and total else 0.0


_NOTE = (
    "{method} works on individual elements, which here are coordinates along the shared directions of the changes, not"
    " weights (Core Space, arXiv 2509.17786), so a recipe with {method} has another result"
)


def _core(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return orthonormal Q and P and a small core such that left @ right = Q @ core @ P.T, from two thin QRs."""
    first, second = torch.linalg.qr(left), torch.linalg.qr(right.T)
    return first.Q, second.Q, first.R @ second.R.T


def _principal(matrix: Tensor) -> Tensor:
    """Return the left singular vectors of a matrix above rounding noise. They depend only on the changes, not on the
    order of the adapters or how each is factored."""
    u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, s > NEGLIGIBLE * s.max()] if s.max() > 0 else u


def check_weights(count: int, weights: Sequence[float]) -> list[float]:
    """Return one weight per adapter.

    Raises:
        InputError: The numbers of weights and adapters differ, or a weight is not finite.
    """
    if count < 2:
        raise InputError("ADAPTERS: there is only one adapter; provide at least two, then OUT")
    if weights and len(weights) != count:
        raise InputError(f"--weight: given {len(weights)} times for {count} adapters; pass one for each, or none")
    if not all(map(math.isfinite, weights)):
        raise InputError("--weight: must be a finite number")
    return list(weights) or [1.0] * count
