"""Read all weights of checkpoints and write as many bytes as a merge of them, as a lower bound for any merge.

This uses one thread and one 8 MiB buffer with alternating reads and writes, like `cp`. There is no fsync.
"""

from __future__ import annotations

import sys
from pathlib import Path

BUFFER = 8 << 20


def copy(out: Path, size: int, inputs: list[Path]) -> None:
    """Read every safetensors file in the folders `inputs` and write `size` bytes to OUT between the reads."""
    files = [file for folder in inputs for file in sorted(folder.glob("*.safetensors"))]
    total = sum(file.stat().st_size for file in files)
    buffer = memoryview(bytearray(BUFFER))
    read = written = 0
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "model.safetensors", "wb", buffering=0) as target:
        for file in files:
            with open(file, "rb", buffering=0) as source:
                while count := source.readinto(buffer):
                    read += count
                    while written < size * read // total:
                        written += target.write(buffer[: min(BUFFER, size * read // total - written)]) or 0


if __name__ == "__main__":
    copy(Path(sys.argv[1]), int(sys.argv[2]), [Path(folder) for folder in sys.argv[3:]])
