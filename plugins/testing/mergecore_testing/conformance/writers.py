"""Checks for writers: pieces written in any order and from any thread produce a valid, complete folder."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api import PlacedWriter, TensorInfo, torch_dtype
from mergecore.models.adapters import open_model
from mergecore_testing.checkpoints import random_tensors
from mergecore_testing.conformance.compare import expect, same
from mergecore_testing.conformance.readers import SHAPES
from mergecore_testing.conformance.subjects import Subject, folder
from mergecore_testing.sandbox import CLASS, Sandbox

if TYPE_CHECKING:
    from torch import Tensor

INFOS = {name: TensorInfo("F32", shape) for name, shape in SHAPES.items()}
WHOLE, SMALL = 2**40, 1000
"""Shard sizes in bytes: all tensors in one shard, and about one tensor per shard."""


def check_pieces_come_in_any_order(subject: Subject) -> None:
    """Pieces written in reverse order by several threads produce the right tensors, in one shard and in several."""
    for shard in (WHOLE, SMALL):
        tensors = random_tensors(SHAPES, "F32", 5)
        with folder() as there, ThreadPoolExecutor(4) as pool:
            writer = subject.loaded(there, INFOS, shard)
            list(pool.map(writer.write, *zip(*reversed(_pieces(tensors)))))
            _end(writer)
            _expect_holds(subject, there, tensors)


def check_what_was_synced_stays(subject: Subject) -> None:
    """A second writer with the same arguments resumes where the first stopped, and nothing synced is lost."""
    tensors = random_tensors(SHAPES, "F32", 6)
    pieces = _pieces(tensors)
    with folder() as there:
        first = subject.loaded(there, INFOS, SMALL)
        for piece in pieces[::2]:
            first.write(*piece)
        first.sync()
        first.close()
        second = subject.loaded(there, INFOS, SMALL)
        for piece in pieces[1::2]:
            second.write(*piece)
        _end(second)
        _expect_holds(subject, there, tensors)


def check_small_shards_give_several_files(subject: Subject) -> None:
    """Files respect the requested shard size, as far as single tensors allow."""
    tensors = random_tensors(SHAPES, "F32", 7)
    counts = []
    for shard in (WHOLE, SMALL):
        with folder() as there:
            writer = subject.loaded(there, INFOS, shard)
            for piece in _pieces(tensors):
                writer.write(*piece)
            _end(writer)
            counts.append(len(list(there.iterdir())))
    expect(counts[1] > counts[0], f"{subject}: shards of {SMALL} bytes produce as many files as one shard: {counts[0]}")


def check_places_are_where_tensors_are(subject: Subject) -> None:
    """If the writer reports the file and offset of each tensor, its bytes are there, unchanged from memory."""
    tensors = random_tensors(SHAPES, "F32", 8)
    with folder() as there:
        writer = subject.loaded(there, INFOS, SMALL)
        for piece in _pieces(tensors):
            writer.write(*piece)
        _end(writer)
        for name, (path, start) in writer.places.items() if isinstance(writer, PlacedWriter) else ():
            held = path.read_bytes()[start : start + INFOS[name].nbytes]
            expect(held == tensors[name].numpy().tobytes(), f"{subject}: {name!r} is not at its location in `places`")


def _pieces(tensors: dict[str, Tensor]) -> list[tuple[str, int, Tensor]]:
    flat = {name: tensor.reshape(-1) for name, tensor in tensors.items()}
    return [(name, n, data[n : n + 97]) for name, data in flat.items() for n in range(0, data.numel(), 97)]


def _end(writer: Any) -> None:
    writer.finish()
    writer.close()


def _expect_holds(subject: Subject, there: Path, tensors: dict[str, Tensor]) -> None:
    import torch

    (there / "config.json").write_text(json.dumps({"architectures": [CLASS]}), "utf-8")
    checkpoint = open_model(str(there), Sandbox())
    try:
        expect(checkpoint.tensors.keys() == tensors.keys(), f"{subject}: the folder has {sorted(checkpoint.tensors)}")
        for name, tensor in tensors.items():
            got = torch.empty(tensor.numel(), dtype=torch_dtype("F32"))
            checkpoint.read(name, 0, got)
            expect(same(got, tensor.reshape(-1)), f"{subject}: {name!r} differs from what was written")
    finally:
        checkpoint.close()
