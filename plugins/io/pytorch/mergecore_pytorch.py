"""Reader for PyTorch `.bin` checkpoints that reads only what is requested and rejects files that would run code."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import struct
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mergecore.api import ITEM_BYTES, ModelError, TensorInfo, open_file, read_at, torch_dtype

NAMES = {torch_dtype(name): name for name in ITEM_BYTES}
"""Safetensors names of the dtypes that can be merged or copied."""

PICKLE_LIMIT = 100_000_000
"""Maximum size of the tensor descriptions in bytes, the same as for a safetensors header."""


class BinReader:
    """Read a file written by `torch.save`. See `mergecore.api.Reader`.

    The file contains a dict of tensors, or such a dict under ``state_dict`` next to trainer state, which is ignored.
    Every entry of the dict must be a tensor. Anything else is rejected, because it would be dropped silently.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with os.fdopen(open_file(path), "rb") as file:
            self._was = _identity(file.fileno())
        self._tensors, self._base = _load(path)
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in self._tensors.items()
        }

    def __reduce__(self) -> tuple[type[BinReader], tuple[Path]]:
        return BinReader, (self._path.absolute(),)

    def read(self, name: str, start: int, out: Tensor) -> None:
        """See `mergecore.api.Reader.read`. Raise ModelError if the file has changed.

        Only views with gaps are read from the map, because the system kills a process that reads the map of a file
        after somebody has truncated it.
        """
        tensor = self._tensors[name]
        with os.fdopen(open_file(self._path), "rb", buffering=0) as file:
            changed = _identity(file.fileno()) != self._was
            if not changed and self._base and tensor.is_contiguous():
                at = tensor.data_ptr() - self._base + start * tensor.element_size()
                changed = not _read_at(file.fileno(), at, out)
            elif not changed:
                copy_elements(tensor, start, out)
        if changed:
            raise ModelError(
                f"{self._path}: was changed while it was being read; run again when nothing writes to it anymore"
            )

    def close(self) -> None:
        """Unmap the file."""
        self._tensors = {}


def _identity(file: int) -> tuple[int, int, int]:
    status = os.fstat(file)
    return status.st_dev, status.st_ino, status.st_size


def _read_at(file: int, position: int, out: Tensor) -> bool:
    """Fill `out` from a position in a file. Return False if the file is too short."""
    view = memoryview(out.view(torch.uint8).numpy())
    while view:
        count = read_at(file, view, position)
        if not count:
            return False
        view, position = view[count:], position + count
    return True


def copy_elements(tensor: Tensor, start: int, out: Tensor) -> None:
    """Fill the flat `out` with the elements of `tensor`, in row-major order, beginning at `start`.

    A non-contiguous view is copied row by row, so that the whole tensor is never copied at once.
    """
    if tensor.is_contiguous():
        out.copy_(tensor.view(-1)[start : start + out.numel()])
        return
    row = tensor[0].numel()
    while out.numel():
        index, skipped = divmod(start, row)
        rows = 0 if skipped else out.numel() // row
        count = rows * row or min(row - skipped, out.numel())
        if rows:
            out[:count].view(rows, *tensor.shape[1:]).copy_(tensor[index : index + rows])
        else:
            copy_elements(tensor[index], skipped, out[:count])
        start, out = start + count, out[count:]


def _load(path: Path) -> tuple[dict[str, Tensor], int]:
    """Return the tensors of a file, mapped into memory, and the address of the map. It is 0 if that is not certain."""
    records = _records(path)
    sizes = Counter(size for _, size in records)
    mapped: list[tuple[int, int]] = []

    def here(storage: Any, _: str) -> Any:
        mapped.append((storage.data_ptr(), storage.nbytes()))
        return storage  # on the CPU, regardless of the device that it was saved from

    try:
        content = torch.load(path, map_location=here, weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise ModelError(
            f"{path}: is rejected, because loading it would run {found[1] if found else 'code'};"
            " convert it to safetensors with https://huggingface.co/spaces/safetensors/convert"
        ) from None
    except Exception as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: cannot be read as PyTorch weights ({cause}); download the file again") from None
    nested = isinstance(content, dict) and isinstance(content.get("state_dict"), dict)
    tensors = content["state_dict"] if nested else content
    if not isinstance(tensors, dict):
        raise ModelError(
            f"{path}: holds a {type(content).__name__}, not a dict of tensors; save the model's weights with"
            " torch.save(model.state_dict(), ...)"
        )
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor, nested)
    # In a mapped file, a record that is too short would run into the next one.
    storages = [tensor.untyped_storage() for tensor in tensors.values() if tensor.numel()]
    total = sum(sizes.elements())
    found = Counter({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    if found - sizes or any(tensor.nbytes > total for tensor in tensors.values()):
        raise ModelError(f"{path}: its tensors do not fit the data in the file; download the file again")
    return {name: tensor.detach() for name, tensor in tensors.items()}, _base(mapped, records)


def _base(mapped: list[tuple[int, int]], records: list[tuple[int, int]]) -> int:
    """Return the only address of the map at which each mapped storage is a record of the file, or 0."""
    there = set(records)
    storages = [(address, size) for address, size in mapped if size]
    if not storages:
        return 0
    first, length = max(storages, key=lambda item: item[1])
    found = [
        first - position
        for position, size in there
        if size == length and all((address - first + position, count) in there for address, count in storages)
    ]
    return found[0] if len(found) == 1 else 0


def _records(path: Path) -> list[tuple[int, int]]:
    """Return the position and size in bytes of each record of the file, which must be an uncompressed zip archive."""
    try:
        with os.fdopen(open_file(path), "rb") as file:
            size, start = os.fstat(file.fileno()).st_size, file.read(1)
            with zipfile.ZipFile(file) as archive:
                records = archive.infolist()
            starts = [_data_start(file, record.header_offset) for record in records]
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception:  # a damaged zip directory can raise more than BadZipFile
        if start == pickle.PROTO:
            raise ModelError(
                f"{path}: is in PyTorch's format from before 2020, which cannot be mapped; convert it: {_rewrite(path)}"
            ) from None
        raise ModelError(f"{path}: is not a torch.save file, or is truncated; download the file again") from None
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ModelError(f"{path}: is compressed, so it cannot be mapped; convert it: {_rewrite(path)}")
    if sum(record.file_size for record in records) > size:
        raise ModelError(f"{path}: its records claim more bytes than the file has; download the file again")
    if any(record.file_size > PICKLE_LIMIT for record in records if record.filename.endswith("data.pkl")):
        raise ModelError(f"{path}: its tensor descriptions are larger than {PICKLE_LIMIT / 1e6:.0f} MB")
    return [(start, record.file_size) for start, record in zip(starts, records, strict=True)]


def _data_start(file: BinaryIO, header: int) -> int:
    """Return where the data of a record starts, after its header, its name, and padding."""
    file.seek(header + 26)
    name, padding = struct.unpack("<HH", file.read(4))
    return header + 30 + int(name) + int(padding)


def _check_tensor(path: Path, name: Any, tensor: Any, nested: bool) -> None:
    """Reject an entry that is not a tensor or has values that cannot be merged or copied."""
    if not isinstance(tensor, Tensor) or not isinstance(name, str):
        entry = f'w["state_dict"][{name!r}]' if nested else f"w[{name!r}]"
        raise ModelError(
            f"{path}: {name!r} is {type(tensor).__name__}, not a named tensor; remove it:"
            f" {_rewrite(path, f'del {entry}; ')}"
        )
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.device.type != "cpu":
        raise ModelError(f"{path}: {name!r} is not a dense CPU tensor; save an ordinary tensor, such as x.to_dense()")
    if tensor.dtype not in NAMES:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(
            f"{path}: {name!r} is stored as {kind}, which cannot be merged;"
            " use a checkpoint in float16, bfloat16, or float32"
        )


def _rewrite(path: Path, change: str = "") -> str:
    """Return the command that loads a file's plain weights, changes them, and saves them in the current format."""
    place = json.dumps(str(path), ensure_ascii=False)
    code = f"import torch; w = torch.load({place}, weights_only=True); {change}torch.save(w, {place})"
    return f"python -c {shlex.quote(code)}"
