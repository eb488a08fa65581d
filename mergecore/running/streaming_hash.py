"""Streaming hash: compute the SHA-256 of files while they are being written."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergecore.api import ITEM_BYTES, TensorInfo
from mergecore.models import CHUNK, Stamp, stamp_file

Digests = Mapping[Path, tuple[Stamp, str]]
"""SHA-256 of files, with the stamp of each file at that time."""


@dataclass
class Growing:
    """A file being written. Bytes before `ready` are final, and bytes before `hashed` are in the digest."""

    ready: int
    hashed: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    parts: dict[int, int] = field(default_factory=dict)
    """Ranges written beyond `ready`, as a mapping from start to end."""
    lost: bool = False
    """Whether bytes that were considered final have been overwritten."""

    def add(self, start: int, stop: int) -> None:
        if start == stop:
            return
        self.lost |= start < self.ready
        self.parts[start] = stop
        while stop := self.parts.pop(self.ready, 0):
            self.ready = stop


class StreamingHash:
    """Hashes files in a background thread as they are written, so that little is left to do at the end.

    Args:
        places: see `mergecore.api.Writer`. Bytes before the first tensor of a file must already be final.
        tensors: the output's tensors. Those without a place are not in a hashed file.
    """

    def __init__(self, places: Mapping[str, tuple[Path, int]], tensors: Mapping[str, TensorInfo]) -> None:
        self._places, self._tensors = places, tensors
        self._files: dict[Path, Growing] = {}
        for path, start in sorted(places.values()):
            self._files.setdefault(path, Growing(start))
        self._changed, self._ended = threading.Condition(), False
        self._thread = threading.Thread(target=self._follow, name="hash", daemon=True)

    def __enter__(self) -> StreamingHash:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            self._ended = True
            if kind:
                self._files.clear()
            self._changed.notify()
        self._thread.join()

    def wrote(self, name: str, start: int, elements: int) -> None:
        """Record that elements of a tensor have been written. Can be called from several threads at once."""
        if name not in self._places:
            return
        path, begin = self._places[name]
        item = ITEM_BYTES[self._tensors[name].dtype]
        with self._changed:
            file = self._files[path]
            file.add(begin + start * item, begin + (start + elements) * item)
            if file.ready - file.hashed >= CHUNK:
                self._changed.notify()

    def digests(self) -> Digests:
        """Return the SHA-256 of every completely hashed file, with its stamp."""
        stamps = {path: stamp_file(path) for path in self._files}
        return {
            path: (stamps[path], file.digest.hexdigest())
            for path, file in self._files.items()
            if file.hashed == stamps[path].size and not file.lost
        }

    def _follow(self) -> None:
        buffer = memoryview(bytearray(CHUNK))
        try:
            while (path := self._next()) is not None:
                file = self._files[path]
                with path.open("rb", buffering=0) as source:
                    source.seek(file.hashed)
                    count = source.readinto(buffer[: file.ready - file.hashed])
                if not count:
                    return  # the file was truncated, which is reported when the whole file is read
                file.digest.update(buffer[:count])
                file.hashed += count
        except OSError:
            return  # also reported later

    def _next(self) -> Path | None:
        """Wait for a file with enough new bytes and return it, or None when all writing is done."""
        with self._changed:
            while True:
                enough = 1 if self._ended else CHUNK
                for path, file in self._files.items():
                    if file.ready - file.hashed >= enough:
                        return path
                if self._ended:
                    return None
                self._changed.wait()
