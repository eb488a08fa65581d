"""Fingerprints of files: the size, and a hash of the contents or, where that would take too long, of a sample."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mergecore.errors import InputError
from mergecore.system import bytes_at

WHOLE = 2**24
"""Files of up to this many bytes are always hashed completely."""

HEAD, BLOCK, BLOCKS = 2**16, 2**12, 256
"""Bytes in a sample: the head of the file, where headers are, plus evenly spaced blocks of this size and number."""

CHUNK = 2**20
"""Bytes to hash at a time, small enough to stay in the CPU cache."""

TREE_BLOCK, DIGEST_BYTES = 2**16, 32
"""Bytes in a block of a tree hash, and in its digest."""


def fingerprint(path: Path, whole: bool = False) -> dict[str, Any]:
    """Return a file's ``size`` and its ``sha256``, ``tree``, or ``sample`` in hexadecimal.

    The SHA-256 is taken from the metadata of huggingface_hub if available. Otherwise, it is computed for files of up to
    `WHOLE` bytes. Of larger files, a tree hash is computed if `whole` is True, and otherwise a sample: the SHA-256 of
    the size and about a megabyte of the contents. It distinguishes files of different models but can miss a change to a
    few values.
    """
    size = path.stat().st_size
    if digest := known_sha256(path) or (sha256(path) if size <= WHOLE else ""):
        return {"size": size, "sha256": digest}
    return {"size": size, "tree": tree_hash(path)} if whole else {"size": size, "sample": sample(path)}


def matches_fingerprint(path: Path, entry: Mapping[str, Any]) -> bool:
    """Return True if a file matches an entry from `fingerprint`. Read only as much as was read for the entry."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry["size"]:
            return False
        if "sha256" in entry:
            return (known_sha256(path) or sha256(path)) == str(entry["sha256"])
        if "tree" in entry:
            return tree_hash(path) == str(entry["tree"])
        return sample(path) == str(entry["sample"])
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file. This takes about 1 s per 1.6 GB on one core with SHA instructions."""
    digest, buffer = hashlib.sha256(), bytearray(CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def tree_hash(path: Path) -> str:
    """Compute the tree hash of a file: the SHA-256 of the SHA-256 digests of its 64 KiB blocks, in order.

    Unlike the SHA-256 of the whole file, all cores can compute it together, and threads that write can in any order.
    """
    return tree_of(b"".join(block_digests(path, range(-(-path.stat().st_size // TREE_BLOCK)))))


def tree_of(digests: bytes | bytearray) -> str:
    """Return the tree hash of a file, given the digests of its blocks one after another."""
    return hashlib.sha256(digests).hexdigest()


def block_digests(path: Path, blocks: Sequence[int]) -> Iterator[bytes]:
    """Yield the SHA-256 digests of blocks of a file, read in several threads."""

    def some(numbers: Sequence[int]) -> list[bytes]:
        return [hashlib.sha256(bytes_at(file.fileno(), TREE_BLOCK, number * TREE_BLOCK)).digest() for number in numbers]

    step = CHUNK // TREE_BLOCK
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        for digests in pool.map(some, (blocks[start : start + step] for start in range(0, len(blocks), step))):
            yield from digests


def sample(path: Path) -> str:
    """Compute the SHA-256 of a file's size, head, and sample blocks."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        digest.update(bytes_at(file.fileno(), HEAD, 0))
        for number in range(BLOCKS):
            digest.update(bytes_at(file.fileno(), BLOCK, (size - BLOCK) * number // (BLOCKS - 1)))
    return digest.hexdigest()


DIGEST = re.compile(r"[0-9a-f]{64}")


def known_sha256(path: Path) -> str | None:
    """Return the SHA-256 recorded by huggingface_hub, as a file name in its cache or in metadata next to a download."""
    real = Path(os.path.realpath(path))
    if real.parent.name == "blobs" and DIGEST.fullmatch(real.name):
        return real.name
    note = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    try:
        _commit, etag, fetched = note.read_text("ascii").split()
        # Like huggingface_hub, ignore the metadata if the file was modified later.
        return etag if DIGEST.fullmatch(etag) and path.stat().st_mtime <= float(fetched) + 1 else None
    except (OSError, ValueError):
        return None
