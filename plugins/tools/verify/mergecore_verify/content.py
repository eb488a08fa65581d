"""Check that all values are finite and that all files match the lock file, streaming on all cores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from mergecore.api import FLOATS, torch_dtype
from mergecore.tooling import Checkpoint, Lock, available_cores, is_finite
from mergecore_verify.findings import Finding, few, skipped

STEP = 2**20
"""Elements to check at a time."""


def check_finite(checkpoint: Checkpoint) -> Finding:
    """Check that no float tensor contains NaN or infinity, using a few megabytes of memory per core."""
    names = [name for name, info in checkpoint.tensors.items() if info.dtype in FLOATS]
    steps = ((name, start) for name in names for start in range(0, checkpoint.tensors[name].elements, STEP))

    def bad(step: tuple[str, int]) -> str | None:
        import torch

        name, start = step
        info = checkpoint.tensors[name]
        out = torch.empty(min(STEP, info.elements - start), dtype=torch_dtype(info.dtype))
        checkpoint.read(name, start, out)
        return None if is_finite(out) else name

    wrong = set()
    with ThreadPoolExecutor(available_cores()) as pool:
        while batch := list(islice(steps, 1024)):
            wrong |= {name for name in pool.map(bad, batch) if name}
    if wrong:
        return Finding("values", False, f"NaN or infinity in {few(wrong)}")
    return Finding("values", True, f"no NaN or infinity in {len(names)} tensors")


def check_hashes(folder: Path, lock: Lock | None) -> Finding:
    """Check that the files are unchanged since the folder's lock file was written."""
    if lock is None:
        return skipped("hashes", "no lock file")
    if wrong := lock.changed_outputs(available_cores()):
        there = [name for name in wrong if (folder / name).is_file()]
        gone = sorted(set(wrong) - set(there))
        words = [
            f"{few(there)} changed since the lock file was written" if there else "",
            f"{few(gone)} missing" if gone else "",
        ]
        return Finding("hashes", False, "; ".join(filter(None, words)))
    return Finding("hashes", True, f"{len(lock.value['outputs'])} files match the lock file in size and hash")
