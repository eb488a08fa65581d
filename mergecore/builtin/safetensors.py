"""Read and write safetensors files. The format is described in the README of safetensors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergecore.api import ITEM_BYTES, BytesReader, BytesWriter, ModelError, TensorInfo, open_file
from mergecore.api.files import shared_info
from mergecore.builtin.open_files import OpenFile
from mergecore.system import bytes_at, open_raw, read_at, write_at

HEADER_LIMIT = 100_000_000
"""Maximum header size that the format allows, in bytes."""

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape in JSON that can be half of a pair. Without its other half, the name is not valid Unicode."""

MAX_AXES = 64
"""Maximum number of axes, as in torch and NumPy."""


class SafetensorsReader(BytesReader):
    """Reads any range of a tensor's elements directly from its offset in the file. See `mergecore.api.Reader`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = OpenFile(path, open_file(path))
        try:
            with self._file as file:
                header, data_start = _read_header(path, file)
        except BaseException:
            self.close()
            raise
        self.tensors: Mapping[str, TensorInfo] = {
            name: shared_info(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()
        }
        self._offsets = {name: data_start + entry["data_offsets"][0] for name, entry in header.items()}

    def __reduce__(self) -> tuple[type[SafetensorsReader], tuple[Path]]:
        return SafetensorsReader, (self._path.absolute(),)

    def read_bytes(self, name: str, start: int, out: memoryview) -> None:
        """See `mergecore.api.BytesReader.read_bytes`. Raise ModelError if the file is truncated."""
        position = self._offsets[name] + start * ITEM_BYTES[self.tensors[name].dtype]
        with self._file as file:
            while out:
                count = read_at(file, out, position)
                if count == 0:
                    raise ModelError(f"{self._path}: the file is truncated inside {name!r}; download it again")
                out, position = out[count:], position + count

    def close(self) -> None:
        self._file.close()


def _read_header(path: Path, file: int) -> tuple[dict[str, Any], int]:
    """Return the entries of the tensors, validated against the file, and the offset of the data."""
    damaged = f"{path}: the safetensors header is damaged; download the file again"
    try:
        size = os.fstat(file).st_size
        length = int.from_bytes(bytes_at(file, 8, 0), "little")
        if size < 8 or length > size - 8:
            raise ModelError(f"{path}: is not a safetensors file, or is truncated; download it again")
        if length > HEADER_LIMIT:
            raise ModelError(f"{path}: the header is larger than the format allows ({HEADER_LIMIT / 1e6:.0f} MB)")
        header = _parse(bytes_at(file, length, 8).decode("utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelError(damaged) from None
    if not isinstance(header, dict) or not _is_metadata(header.pop("__metadata__", {})):
        raise ModelError(damaged)
    _check_entries(path, header, size - 8 - length)
    return header, 8 + length


def _parse(text: str) -> Any:
    """Parse JSON as the format defines it: only non-negative integers, no duplicate keys, and valid Unicode."""
    parse_int = _natural if "-" in text else None  # a call for every number takes as long as the rest
    header = json.loads(
        text, object_pairs_hook=_once, parse_int=parse_int, parse_float=_natural, parse_constant=_natural
    )
    if SURROGATE.search(text):
        json.dumps(header, ensure_ascii=False).encode("utf-8")  # fails on an unpaired surrogate
    return header


def _natural(number: str) -> int:
    if not number.isdigit():
        raise ValueError("not a natural number")
    return int(number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Create a JSON object. Raise an error on duplicate keys, where json would keep the last one."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("duplicate key")
    return result


def _check_entries(path: Path, header: Mapping[str, Any], data_bytes: int) -> None:
    """Check that every entry has a known dtype and the right size, and that the entries cover the data without gaps."""
    spans = []
    for name, entry in header.items():
        if not _is_whole(entry):
            raise ModelError(f"{path}: the header entry for {name!r} is damaged; download the file again")
        dtype, (begin, end) = entry["dtype"], entry["data_offsets"]
        if dtype not in ITEM_BYTES:
            raise ModelError(
                f"{path}: {name!r} is stored as {dtype!r}, which cannot be merged;"
                " use a checkpoint in float16, bfloat16, or float32"
            )
        if end - begin != shared_info(dtype, tuple(entry["shape"])).nbytes or end > data_bytes:
            raise ModelError(
                f"{path}: the size of {name!r} does not match its shape or the file, which might be truncated;"
                " download it again"
            )
        spans.append((begin, end, name))
    spans.sort()
    position = 0
    for begin, end, name in spans:
        if begin != position:
            how = "overlaps another tensor" if begin < position else "starts after a gap"
            raise ModelError(f"{path}: {name!r} {how}; the header is damaged, download the file again")
        position = end
    if position != data_bytes:
        raise ModelError(f"{path}: has extra bytes after the last tensor; download the file again")


def _is_metadata(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_whole(entry: Any) -> bool:
    """Return True if an entry has a dtype name, and integers of a sane size for its shape and offsets."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(shape) <= MAX_AXES and len(offsets) == 2):
        return False
    numbers = (*shape, *offsets)
    return set(map(type, numbers)) == {int} and min(numbers) >= 0 and max(numbers) < 2**63


class SafetensorsWriter(BytesWriter):
    """Writes `model.safetensors`, or shards with an index. See `mergecore.api.Writer`. `stem` replaces "model"."""

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo], shard_bytes: int, stem: str = "model") -> None:
        self._folder, self._tensors, self._stem = folder, tensors, stem
        self._files: dict[Path, OpenFile] = {}
        self._unsafe: set[OpenFile] = set()
        self.places: dict[str, tuple[Path, int]] = {}
        self._shards = _split(tensors, shard_bytes)
        self._names = shard_names(len(self._shards), stem)
        try:
            for name, shard in zip(self._names, self._shards):
                descriptor = open_raw(folder / name, os.O_RDWR | os.O_CREAT)
                self._files[folder / name] = OpenFile(folder / name, descriptor, written=True)
                self._lay_out(folder / name, shard)
        except BaseException:
            self.close()
            raise

    def _lay_out(self, path: Path, shard: Mapping[str, TensorInfo]) -> None:
        # Use the order in which executors write tensors, so that files grow from their start.
        order = sorted(shard, key=lambda name: (_unaligning(shard[name]), -shard[name].nbytes))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in order:
            begin, end = end, end + shard[name].nbytes
            header[name] = {"dtype": shard[name].dtype, "shape": list(shard[name].shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with self._files[path] as file:
            write_at(file, memoryview(len(text).to_bytes(8, "little") + text), 0)
            os.ftruncate(file, 8 + len(text) + end)
        for name in order:
            self.places[name] = (path, 8 + len(text) + header[name]["data_offsets"][0])

    def write_bytes(self, name: str, start: int, data: memoryview) -> None:
        """See `mergecore.api.BytesWriter.write_bytes`."""
        path, position = self.places[name]
        with self._files[path] as file:
            write_at(file, data, position + start * ITEM_BYTES[self._tensors[name].dtype])
        self._unsafe.add(self._files[path])

    def sync(self) -> None:
        """See `mergecore.api.Writer.sync`."""
        for file in list(self._unsafe):
            self._unsafe.discard(file)  # before fsync, so that concurrent writes mark it again
            with file as descriptor:  # also syncs what was written before the file was closed and opened again
                os.fsync(descriptor)

    def finish(self) -> None:
        """Write the index if there are several files."""
        if len(self._shards) > 1:
            total = sum(info.nbytes for info in self._tensors.values())
            places = {name: file for file, shard in zip(self._names, self._shards) for name in shard}
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
            (self._folder / f"{self._stem}.safetensors.index.json").write_text(
                json.dumps(index, indent=2) + "\n", "utf-8"
            )

    def close(self) -> None:
        """See `mergecore.api.Writer.close`."""
        while self._files:
            self._files.popitem()[1].close()


def _unaligning(info: TensorInfo) -> int:
    """Rank tensors so that each is aligned to its item size: multiples of 8 bytes first, then by item size."""
    return 9 - ITEM_BYTES[info.dtype] if info.nbytes % 8 else 0


def shard_names(count: int, stem: str = "model") -> list[str]:
    """Return the file names of `count` shards, as transformers expects them."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _split(tensors: Mapping[str, TensorInfo], shard_bytes: int) -> list[dict[str, TensorInfo]]:
    """Split tensors, in order, into shards of at most `shard_bytes`. A larger tensor gets its own shard."""
    shards: list[dict[str, TensorInfo]] = [{}]
    room = shard_bytes
    for name, info in tensors.items():
        if info.nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = info
        room -= info.nbytes
    return shards
