"""Hash files block by block in the threads that write them, while the bytes are in their caches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergecore.api import ITEM_BYTES, Kernels, TensorInfo
from mergecore.api.memory import address
from mergecore.models import DIGEST_BYTES, TREE_BLOCK, Stamp, block_digests, stamp_file, tree_of

Digests = Mapping[Path, tuple[Stamp, str]]
"""Tree hashes of files, with the stamp of each file at that time. See `mergecore.models.tree_hash`."""


@dataclass
class _Growing:
    """A file that is being written: the digests of its blocks, and which of them are known."""

    path: Path
    size: int
    kernels: Kernels | None
    digests: bytearray = field(init=False)
    known: bytearray = field(init=False)
    begun: dict[int, Any] = field(default_factory=dict)
    """The hash of the first bytes of a block, by the position where they end."""

    def __post_init__(self) -> None:
        blocks = -(-self.size // TREE_BLOCK)
        self.digests, self.known = bytearray(blocks * DIGEST_BYTES), bytearray(blocks)

    def add(self, start: int, data: memoryview) -> None:
        """Hash bytes that have been written. Those at the start of a block that is not theirs are left for the end."""
        while data:
            if start % TREE_BLOCK == 0 and (done := self._add_blocks(start // TREE_BLOCK, data)):
                start, data = start + done, data[done:]
                continue
            part, data = data[: TREE_BLOCK - start % TREE_BLOCK], data[TREE_BLOCK - start % TREE_BLOCK :]
            hashed = self.begun.pop(start, None) if start % TREE_BLOCK else hashlib.sha256()
            block, end = start // TREE_BLOCK, start + len(part)
            self.known[block] = 0
            if hashed is not None:
                hashed.update(part)
                if end % TREE_BLOCK and end < self.size:
                    self.begun[end] = hashed
                else:
                    self.digests[block * DIGEST_BYTES : (block + 1) * DIGEST_BYTES] = hashed.digest()
                    self.known[block] = 1
            start = end

    def _add_blocks(self, first: int, data: memoryview) -> int:
        """Hash the complete blocks of `data` in native code. Return their bytes, or 0 if it cannot."""
        count = len(data) // TREE_BLOCK
        if self.kernels is None or not count or data.readonly:
            return 0
        digests = self.kernels.sha256(address(data), count, TREE_BLOCK)
        if digests is None:
            return 0
        self.digests[first * DIGEST_BYTES : (first + count) * DIGEST_BYTES] = digests
        self.known[first : first + count] = bytes([1]) * count
        return count * TREE_BLOCK

    def finish(self) -> str:
        """Hash the blocks that are not known from the file, and return the hash of the whole file."""
        unknown = [block for block, known in enumerate(self.known) if not known]
        for block, digest in zip(unknown, block_digests(self.path, unknown)):
            self.digests[block * DIGEST_BYTES : (block + 1) * DIGEST_BYTES] = digest
        return tree_of(self.digests)


class BlockHashes:
    """The hashes of the files of a result.

    Bytes that are written twice, or that another process writes, are hashed from the file.

    Args:
        places: see `mergecore.api.PlacedWriter`. The files have their full size.
        tensors: the output's tensors. Those without a place are not in a hashed file.
        kernels: native code that hashes complete blocks.
    """

    def __init__(
        self,
        places: Mapping[str, tuple[Path, int]],
        tensors: Mapping[str, TensorInfo],
        kernels: Kernels | None = None,
    ) -> None:
        self._places, self._tensors = places, tensors
        self._files = {path: _Growing(path, path.stat().st_size, kernels) for path, _ in places.values()}

    def wrote(self, name: str, start: int, data: memoryview) -> None:
        """Hash what has been written to a tensor from an element on. Can be called from several threads at once."""
        if name in self._places:
            path, begin = self._places[name]
            self._files[path].add(begin + start * ITEM_BYTES[self._tensors[name].dtype], data)

    def digests(self) -> Digests:
        """Return the hashes of all files. Call it once everything is written, and before anything else changes them."""
        stamps = {path: stamp_file(path) for path in self._files}
        return {path: (stamps[path], file.finish()) for path, file in self._files.items()
                if file.size == stamps[path].size}  # fmt: skip
