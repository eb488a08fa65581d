"""Write checkpoints that have only headers: each file has its full size, but its data is a hole in the file system."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

from bench.planning.shapes import Stored, Tensors
from mergecore.api import ITEM_BYTES


def _split(tensors: Tensors, shard_bytes: int) -> list[dict[str, tuple[str, tuple[int, ...], int]]]:
    """Split tensors, in order, into shards. Each entry is the dtype, shape, and number of bytes."""
    shards: list[dict[str, tuple[str, tuple[int, ...], int]]] = [{}]
    filled = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * ITEM_BYTES[dtype]
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = dtype, shape, size
        filled += size
    return shards


def write_headers(folder: Path, stored: Stored, shard_bytes: int = 5 * 10**9) -> Path:
    """Write a checkpoint without data, and its index if it has several files. Return the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shards = _split(stored.tensors, shard_bytes)
    places, total = {}, 0
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor, (dtype, shape, size) in shard.items():
            start, end = end, end + size
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
            places[tensor] = name
        text = json.dumps(header, separators=(",", ":")).encode()
        (folder / name).write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(folder / name, 8 + len(text) + end)
        total += end
    (folder / "config.json").write_text(json.dumps(stored.config, indent=2))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, separators=(",", ":")))
    return folder
