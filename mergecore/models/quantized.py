"""Quantized checkpoints: fp8 weights are dequantized to bfloat16 on read, and all other formats are rejected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mergecore.api import FLOAT8, FLOATS, ModelError, Reader, TensorInfo, torch_dtype
from mergecore.api.files import shared_info
from mergecore.documents import show

if TYPE_CHECKING:
    from torch import Tensor

KEY = "quantization_config"
"""The config.json key for quantization settings."""

SIGNS = {
    ".qweight": "GPTQ or AWQ", ".qzeros": "GPTQ or AWQ", ".absmax": "bitsandbytes", ".SCB": "bitsandbytes",
    ".weight_packed": "compressed-tensors", "_blocks": "MXFP4",
}  # fmt: skip
"""Suffixes of tensor names that occur only in quantized checkpoints, with the tool that writes them."""

SCALES = ("_scale_inv", "_scale")
"""Suffixes that fp8 checkpoints add to a weight's name for its scale. Both are multiplied, despite the name."""

ACTIVATIONS = ("input_scale", "activation_scale")
"""Suffixes that replace ``weight`` for the scale of a layer's inputs, which dequantized weights do not need."""

PIECE = 2**18
"""Elements to dequantize at a time, so that a large read needs little extra memory."""

UNQUANTIZED = "merge the model's unquantized checkpoint and quantize the result"


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError if config.json describes a quantization that is not supported."""
    settings = config.get(KEY)
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    if settings is not None and method != "fp8":
        named = f" ({show(method)})" if method else ""
        raise ModelError(f"{path}: the weights are quantized{named}; {UNQUANTIZED}")


def dequantize(folder: Path, config: Mapping[str, Any], owners: Mapping[str, Reader]) -> dict[str, Reader]:
    """Return the reader of each weight. Fp8 weights are read as bfloat16, and their scales are hidden.

    Args:
        folder: folder of the model, for error messages.
        config: contents of its config.json.
        owners: the reader of each stored tensor.

    Raises:
        ModelError: if names or dtypes show that the checkpoint cannot be dequantized.
    """
    _check_names(folder, owners.keys())
    scales: dict[str, Scale] = {}
    known: dict[tuple[TensorInfo, TensorInfo, str], Scale] = {}
    used = set[str]()
    for name, reader in owners.items():
        info = reader.tensors[name]
        if info.dtype in FLOAT8:
            ending = next((ending for ending in SCALES if name + ending in owners), None)
            if ending is None:
                raise ModelError(f"{folder}: {name!r} is stored as {info.dtype} without a scale; {UNQUANTIZED}")
            key = info, owners[name + ending].tensors[name + ending], ending
            if key not in known:
                known[key] = _scale(folder, config, name, *key)
            scales[name] = known[key]
            others = (name.removesuffix("weight") + ending for ending in ACTIVATIONS)
            used.update(label for label in (name + ending, *others) if label in owners)
    scaled = ScaledReader(owners, scales)
    return {name: scaled if name in scales else reader for name, reader in owners.items() if name not in used}


def _check_names(folder: Path, names: Set[str]) -> None:
    endings = tuple(SIGNS)
    for name in names:
        if name.endswith(endings):
            sign = next(sign for sign in endings if name.endswith(sign))
            if sign != "_blocks" or name.removesuffix(sign) + "_scales" in names:
                raise ModelError(f"{folder}: contains {name!r}, quantized with {SIGNS[sign]}; {UNQUANTIZED}")


class Scale(NamedTuple):
    """How a weight is scaled.

    Attributes:
        ending: what the name of the scale adds to that of the weight.
        columns: elements per row. A weight with one scale is a single row.
        block: rows and columns that share a scale.
    """

    ending: str
    columns: int
    block: tuple[int, int]


def _scale(
    folder: Path, config: Mapping[str, Any], name: str, info: TensorInfo, scales: TensorInfo, ending: str
) -> Scale:
    """Return how an fp8 weight is scaled: by one number, or by one for each block of rows and columns."""
    if scales.dtype not in FLOATS:
        raise ModelError(f"{folder}: {name!r} is stored as {info.dtype} without a scale; {UNQUANTIZED}")
    if scales.shape in ((), (1,)):
        return Scale(ending, max(info.elements, 1), (1, max(info.elements, 1)))
    settings = config.get(KEY)
    block = settings.get("weight_block_size") if isinstance(settings, Mapping) else None
    if not (isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block)):
        blocks = "has scales for blocks, but config.json has no weight_block_size"
        raise ModelError(f"{folder}: {name + ending!r} {blocks}; {UNQUANTIZED}")
    if len(info.shape) != 2 or scales.shape != tuple(-(-size // step) for size, step in zip(info.shape, block)):
        shapes = f"of shape {list(scales.shape)} for a weight of shape {list(info.shape)} in blocks of {block}"
        raise ModelError(
            f"{folder}: {name + ending!r} is {shapes}, which does not match; download the checkpoint again"
        )
    return Scale(ending, info.shape[1], (block[0], block[1]))


class ScaledReader:
    """Reads the fp8 weights of a model as bfloat16. Values are multiplied by the scale in float32 and rounded once.

    See `mergecore.api.Reader`.

    Args:
        owners: the reader of each stored tensor.
        scales: how each fp8 weight is scaled.
    """

    def __init__(self, owners: Mapping[str, Reader], scales: Mapping[str, Scale]) -> None:
        self._owners, self._scales = owners, scales
        self.tensors: Mapping[str, TensorInfo] = {
            name: shared_info("BF16", owners[name].tensors[name].shape) for name in scales
        }

    def read(self, name: str, start: int, out: Tensor) -> None:
        """See `mergecore.api.Reader.read`."""
        for done in range(0, out.numel(), PIECE):
            self._fill(name, start + done, out[done : done + PIECE])

    def _fill(self, name: str, start: int, out: Tensor) -> None:
        import torch

        stored = torch.empty(out.numel(), dtype=torch_dtype(self._owners[name].tensors[name].dtype))
        self._owners[name].read(name, start, stored)
        values = stored.to(torch.float32)
        for first, rows, column, width in rectangles(start, out.numel(), self._scales[name].columns):
            part, values = values[: rows * width], values[rows * width :]
            factors = self._factors(name, first, rows, column, width)
            out[: rows * width] = (part.view(rows, width) * factors).view(-1)
            out = out[rows * width :]

    def _factors(self, name: str, first: int, rows: int, column: int, width: int) -> Tensor:
        """Return the scale of each element of a rectangle."""
        import torch

        ending, columns, (high, wide) = self._scales[name]
        across = -(-columns // wide)
        top, bottom = first // high, (first + rows - 1) // high + 1
        reader = self._owners[name + ending]
        scales = torch.empty((bottom - top) * across, dtype=torch_dtype(reader.tensors[name + ending].dtype))
        reader.read(name + ending, top * across, scales)
        down = torch.arange(first, first + rows) // high - top
        along = torch.arange(column, column + width) // wide
        return scales.view(-1, across).to(torch.float32)[down][:, along]

    def parts(self, name: str) -> list[tuple[Reader, str, int]]:
        """Return the readers and tensors that it is read from. See `mergecore.models.remote_files.shards_of`."""
        pairs = ((self._owners[label], label) for label in (name, name + self._scales[name].ending))
        return [(reader, label, reader.tensors[label].elements) for reader, label in pairs]

    def close(self) -> None:
        """Do nothing, because the files belong to the underlying readers."""


def rectangles(start: int, count: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """Split a flat range of a matrix into at most three rectangles: (first row, rows, first column, columns)."""
    while count:
        row, column = divmod(start, columns)
        rows = max(1, count // columns) if column == 0 else 1
        width = min(columns - column, count)
        yield row, rows, column, width
        start, count = start + rows * width, count - rows * width
