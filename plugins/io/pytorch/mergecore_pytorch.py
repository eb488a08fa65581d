"""Reader for PyTorch `.bin` checkpoints that maps files into memory and refuses any file that would run code."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergecore.api import ITEM_BYTES, ModelError, TensorInfo, open_file, torch_dtype

NAMES = {torch_dtype(name): name for name in ITEM_BYTES}
"""Safetensors names of the dtypes that can be merged or copied."""

PICKLE_LIMIT = 100_000_000
"""Maximum size of the tensor descriptions in bytes, the same as for a safetensors header."""


class BinReader:
    """Read a file written by `torch.save`. See `mergecore.api.Reader`.

    The file contains a dict of tensors, or such a dict under ``state_dict`` next to trainer state, which is ignored.
    Every entry of the dict must be a tensor. Anything else is refused, because it would be dropped silently.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors = _load(path)
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in self._tensors.items()
        }

    def __reduce__(self) -> tuple[type[BinReader], tuple[Path]]:
        return BinReader, (self._path.absolute(),)

    def read(self, name: str, start: int, out: Tensor) -> None:
        """See `mergecore.api.Reader.read`."""
        copy_elements(self._tensors[name], start, out)

    def close(self) -> None:
        """Unmap the file."""
        self._tensors = {}


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


def _load(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, mapped into memory."""
    sizes = _record_sizes(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise ModelError(
            f"{path}: is refused, because loading it would run {found[1] if found else 'code'};"
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
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _record_sizes(path: Path) -> Counter[int]:
    """Count the record sizes in bytes of the file, which must be an uncompressed zip archive."""
    try:
        with os.fdopen(open_file(path), "rb") as file:
            size, start = os.fstat(file.fileno()).st_size, file.read(1)
            with zipfile.ZipFile(file) as archive:
                records = archive.infolist()
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
    return Counter(record.file_size for record in records)


def _check_tensor(path: Path, name: Any, tensor: Any, nested: bool) -> None:
    """Refuse an entry that is not a tensor or has values that cannot be merged or copied."""
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
