"""Check a tool's output: whether every tensor exists, and how much it differs from another tool's output."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

SAMPLE = 4096  # numbers sampled from the middle of each tensor

Sample = dict[str, np.ndarray]


def sample(folder: Path) -> Sample:
    """Return a few numbers of every bfloat16 tensor in FOLDER's safetensors files, as float32."""
    found: Sample = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                if entry["dtype"] != "BF16":
                    raise ValueError(f"{name} is stored as {entry['dtype']}, not BF16")
                count = min(SAMPLE, math.prod(entry["shape"]))
                middle = (math.prod(entry["shape"]) - count) // 2
                file.seek(8 + length + entry["data_offsets"][0] + 2 * middle)
                bits = np.frombuffer(file.read(2 * count), np.uint16)
                found[name] = (bits.astype(np.uint32) << 16).view(np.float32)
    return found


def problem(written: Sample, expected: Sample) -> str:
    """Return what is wrong with an output, given the expected names and sizes, or an empty string."""
    if missing := expected.keys() - written.keys():
        return f"{len(missing)} missing tensors, the first is {min(missing)}"
    if extra := written.keys() - expected.keys():
        return f"{len(extra)} unexpected tensors, the first is {min(extra)}"
    for name, values in written.items():
        if values.size != expected[name].size or not np.isfinite(values).all():
            return f"{name} has the wrong size or non-finite numbers"
    return ""


def difference(left: Sample, right: Sample) -> float:
    """Return the RMS of left - right divided by the RMS of right, over all sampled numbers."""
    error = sum(float(np.square(left[name].astype(np.float64) - right[name]).sum()) for name in right)
    return math.sqrt(error / sum(float(np.square(right[name], dtype=np.float64).sum()) for name in right))
