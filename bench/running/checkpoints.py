"""Create checkpoints with a published shape: a base and models close to it, in bfloat16, sharded, and reproducible."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.running.shapes import SHAPES, Shape, find_shape

WORK = Path(__file__).parents[1] / ".work"
INDEX = "model.safetensors.index.json"
STAMP = "made.json"  # written last, so a folder without it is incomplete
BASE_STD = 0.02
DELTA = 0.015  # relative norm of the task vectors
TILE = 1 << 22  # elements in memory at a time per worker


@dataclass(frozen=True)
class Place:
    """Location of a tensor's bytes: shard number, file offset, and shape."""

    shard: int
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The planned files of a checkpoint: headers, sizes, and the location of every tensor."""

    headers: list[bytes]
    sizes: list[int]
    places: dict[str, Place]

    def file(self, shard: int) -> str:
        """Return the file name of a shard."""
        count = len(self.headers)
        return "model.safetensors" if count == 1 else f"model-{shard + 1:05d}-of-{count:05d}.safetensors"


def _split(tensors: dict[str, tuple[int, ...]], shard_bytes: int) -> list[dict[str, tuple[int, ...]]]:
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, sizes in tensors.items():
        size = 2 * math.prod(sizes)
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = sizes
        filled += size
    return shards


def lay_out(tensors: dict[str, tuple[int, ...]], shard_bytes: int) -> Layout:
    """Plan shards of at most `shard_bytes` with at least one tensor each."""
    headers: list[bytes] = []
    sizes: list[int] = []
    places: dict[str, Place] = {}
    for number, shard in enumerate(_split(tensors, shard_bytes)):
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        ends, end = {}, 0
        for name, dims in shard.items():
            start, end = end, end + 2 * math.prod(dims)
            ends[name] = start
            entries[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [start, end]}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        headers.append(len(text).to_bytes(8, "little") + text)
        sizes.append(len(headers[-1]) + end)
        places |= {name: Place(number, len(headers[-1]) + ends[name], dims) for name, dims in shard.items()}
    return Layout(headers, sizes, places)


def _noise(key: str, count: int) -> torch.Tensor:
    """Return `count` normal numbers that depend only on the key, so that tiles can be created in any order."""
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)
    return torch.empty(count).normal_(generator=torch.Generator().manual_seed(seed))


def _tiles(layout: Layout) -> Iterator[tuple[str, Place, int, int]]:
    for name, place in layout.places.items():
        total = math.prod(place.shape)
        for start in range(0, total, TILE):
            yield name, place, start, min(TILE, total - start)


def _write_tile(files: list[int], base: list[int], key: str, place: Place, start: int, count: int) -> None:
    norm = len(place.shape) == 1  # norm weights are around 1, matrices around 0
    offset = place.offset + 2 * start
    if base:
        values = torch.empty(count, dtype=torch.bfloat16)
        os.preadv(base[place.shard], [values.view(torch.uint8).numpy().data], offset)
        values = values.float().add_(_noise(key, count), alpha=DELTA * (1.0 if norm else BASE_STD))
    else:
        values = _noise(key, count).mul_(BASE_STD).add_(1.0 if norm else 0.0)
    os.pwrite(files[place.shard], values.bfloat16().view(torch.uint8).numpy().data, offset)


def _write(folder: Path, layout: Layout, base: Path | None, seed: int) -> None:
    names = [layout.file(number) for number in range(len(layout.headers))]
    files = [os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644) for name in names]
    sources = [os.open(base / name, os.O_RDONLY) for name in names] if base else []
    torch.set_num_threads(1)
    try:
        for file, header, size in zip(files, layout.headers, layout.sizes, strict=True):
            os.truncate(file, size)
            os.pwrite(file, header, 0)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = [
                pool.submit(_write_tile, files, sources, f"{seed}/{folder.name}/{name}/{start}", place, start, count)
                for name, place, start, count in _tiles(layout)
            ]
            for future in done:
                future.result()
    finally:
        for file in files + sources:
            os.close(file)


def make_model(folder: Path, model: Shape, base: Path | None, seed: int, shard_bytes: int) -> Path:
    """Write a checkpoint, or a base if `base` is None. Keep an existing checkpoint if it matches these settings."""
    layout = lay_out(model.tensors(), shard_bytes)
    stamp = json.dumps({"shape": asdict(model), "seed": seed, "delta": DELTA, "shard_bytes": shard_bytes})
    if (folder / STAMP).exists() and (folder / STAMP).read_text() == stamp:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write(folder, layout, base, seed)
    (folder / "config.json").write_text(json.dumps(model.config(), indent=2) + "\n")
    if len(layout.headers) > 1:
        total = 2 * sum(math.prod(place.shape) for place in layout.places.values())
        files = {name: layout.file(place.shard) for name, place in layout.places.items()}
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    (folder / STAMP).write_text(stamp)
    return folder


def make_checkpoints(
    name: str, *, layers: int | None = None, models: int = 2, seed: int = 0, shard_bytes: int = 10**9
) -> list[Path]:
    """Return folders of a base and `models` other models, creating missing ones. SystemExit if the disk is too full."""
    model = find_shape(name, layers)
    root = WORK / "models" / (f"{name}-{layers}-layers" if layers else name)
    root.mkdir(parents=True, exist_ok=True)
    folders = [root / "base"] + [root / f"model-{number}" for number in range(1, models + 1)]
    missing = sum(not (folder / STAMP).exists() for folder in folders)
    need = missing * 2 * sum(math.prod(dims) for dims in model.tensors().values())
    free = shutil.disk_usage(root).free
    if need > free:
        raise SystemExit(f"{need / 1e9:.1f} GB of models do not fit in {free / 1e9:.1f} GB; run: rm -r {WORK}/models")
    base = make_model(folders[0], model, None, seed, shard_bytes)
    return [base] + [make_model(folder, model, base, seed, shard_bytes) for folder in folders[1:]]


def main() -> None:
    """Create the checkpoints requested on the command line and print their folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--layers", type=int, help="keep only this many layers")
    parser.add_argument("--models", type=int, default=2, help="number of models besides the base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-gb", type=float, default=1.0)
    args = parser.parse_args()
    options = {"layers": args.layers, "models": args.models, "seed": args.seed, "shard_bytes": int(args.shard_gb * 1e9)}
    print(*make_checkpoints(args.shape, **options), sep="\n")


if __name__ == "__main__":
    main()
