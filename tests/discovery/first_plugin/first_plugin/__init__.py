"""Plugins of each kind, written against the first version of the API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mergecore.api import (
    BLOCK,
    FLOATS,
    ITEM_BYTES,
    Base,
    Context,
    DeltaMethod,
    InputError,
    MergedModel,
    ModelError,
    PerModel,
    PostProcessor,
    RunError,
    TensorInfo,
    Tile,
    Tiles,
    WeightMethod,
    Work,
    lies_within,
    open_file,
    param,
    read_text,
    torch_dtype,
)


@dataclass(frozen=True, kw_only=True)
class FirstMix(DeltaMethod):
    """Draw, measure, and add up: result = base + lambda * sum(weight * delta * (random < keep)) * norm."""

    tile = Tile.ELEMENTS
    base = Base.REQUIRED
    models = (1, None)
    copies_lone = True
    ignored = ("old",)

    weight: PerModel[float] = param(1.0, "Scale.", minimum=-10.0, maximum=10.0)
    keep: float = param(0.5, "Share that is kept.", minimum=0.0, maximum=1.0)
    mode: Literal["plain", "scaled"] = param("plain", "How.")
    kind: str = param("a", "What.", enum=["a", "b"])
    often: int = param(1, "How often.")
    on: bool = param(True, "Whether.")
    lambda_: float = param(1.0, "Scale of it all.", alias="lambda")

    def measure(self, tiles: Sequence[Sequence[Tensor]], ctx: Context) -> Any:
        total = 0.0
        for tile in tiles:
            for block in tile[0].split(BLOCK):
                total += float(block.double().abs().sum())
        assert len(tiles) and tiles[0] and ctx.offset == 0
        return {"total": total}

    def merge(self, deltas: Sequence[Tensor], ctx: Context) -> Tensor:
        assert ctx.measured["total"] >= 0 and ctx.name and ctx.shape is not None and ctx.seed == 7
        total = torch.zeros_like(deltas[0])
        for model, (weight, delta) in enumerate(zip(self.weight, deltas)):
            total = total + weight * delta * (ctx.random(model, delta) < self.keep)
        return total * self.lambda_


@dataclass(frozen=True, kw_only=True)
class FirstPeak(WeightMethod):
    """Elementwise maximum of the models: result = max(model)."""

    tile = Tile.ROWS
    models = (2, 2)

    def merge(self, weights: Sequence[Tensor], ctx: Context) -> Tensor:
        return torch.maximum(*weights)


class FirstReader:
    """Reads files that contain a single float32 tensor 'w'."""

    def __init__(self, path: Path) -> None:
        import os

        handle = open_file(path)
        os.close(handle)
        if not lies_within(path.parent, path):
            raise ModelError(f"{path}: lies outside")
        self.data = torch.tensor([float(word) for word in read_text(path, 10**6).split()])
        self.tensors = {"w": TensorInfo("F32", tuple(self.data.shape))}
        assert self.tensors["w"].nbytes == ITEM_BYTES["F32"] * self.data.numel()
        assert "F32" in FLOATS and torch_dtype("F32") is torch.float32

    def read(self, name: str, start: int, out: Tensor) -> None:
        out.copy_(self.data[start : start + out.numel()])

    def close(self) -> None:
        pass


class FirstExecutor:
    """Merges one whole tensor after another, using only the API."""

    def run(self, work: Work) -> None:
        for job in work.jobs:

            def read(job, piece):
                parts = []
                for item in job.inputs:
                    part = torch.empty(piece.elements, dtype=torch_dtype(item.info.dtype))
                    work.read(item, piece.start, part)
                    parts.append(part.to(torch_dtype(job.compute_dtype)).view(piece.shape))
                return parts

            pieces = job.pieces(2**20)
            ctx = job.context(Tiles(job, pieces, read))
            for piece in pieces:
                parts = read(job, piece)
                merged = parts[0] if job.method is None else job.merge(parts, replace(ctx, offset=piece.start))
                out = merged.reshape(-1).to(torch_dtype(job.info.dtype))
                work.write(job.name, piece.start, out)
                work.advance(out.numel() * out.element_size())
            if job.memory(2**20) < 0 or work.memory <= 0 or work.workers < 1:
                raise RunError("no memory")
            work.done(job)


class FirstNote(PostProcessor):
    """Writes a file with the data it received."""

    after = ("config",)

    def run(self, model: MergedModel) -> None:
        facts = [model.name, model.method, model.architecture, str(len(model.tensors)), str(len(model.models))]
        facts += [model.models[model.config_source].reference, str(model.base), str(model.config["num_hidden_layers"])]
        assert model.recipe and model.method_doc and model.tokenizer_files is None
        (model.folder / "first.txt").write_text("\n".join(facts))


def first(word: str) -> None:
    """Print WORD."""
    if word == "no":
        raise InputError("say something else")
    print(word)
