"""Looks at what a tool wrote: is every weight there, and by how much does it differ from what another tool wrote?"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

SAMPLE = 4096  # numbers looked at in each weight, from its middle

Sample = dict[str, np.ndarray]


def sample(folder: Path) -> Sample:
    """A few numbers of every bfloat16 weight in FOLDER's safetensors files, as float32."""
    found: Sample = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                if entry["dtype"] != "BF16":
                    raise ValueError(f"{name} is written as {entry['dtype']}, not BF16")
                count = min(SAMPLE, math.prod(entry["shape"]))
                middle = (math.prod(entry["shape"]) - count) // 2
                file.seek(8 + length + entry["data_offsets"][0] + 2 * middle)
                bits = np.frombuffer(file.read(2 * count), np.uint16)
                found[name] = (bits.astype(np.uint32) << 16).view(np.float32)
    return found


def problem(written: Sample, expected: Sample) -> str:
    """What is wrong with an output beside its inputs' names and sizes; empty when nothing is."""
    if missing := expected.keys() - written.keys():
        return f"{len(missing)} weights are missing, {min(missing)} first"
    if extra := written.keys() - expected.keys():
        return f"{len(extra)} weights are too many, {min(extra)} first"
    for name, values in written.items():
        if values.size != expected[name].size or not np.isfinite(values).all():
            return f"{name} has the wrong size or numbers that are not finite"
    return ""


def difference(left: Sample, right: Sample) -> float:
    """Root mean square of left minus right over that of right, over all sampled numbers."""
    error = sum(float(np.square(left[name].astype(np.float64) - right[name]).sum()) for name in right)
    return math.sqrt(error / sum(float(np.square(right[name], dtype=np.float64).sum()) for name in right))
