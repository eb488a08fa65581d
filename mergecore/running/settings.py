"""The inputs of a run: its options and the callbacks for its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mergecore.recipes import Lock

SHARD_BYTES = 5 * 10**9
"""Default maximum size of a weight file, the same as in the Hub's tools."""


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        memory: memory budget in bytes.
        workers: number of threads.
        shard_bytes: maximum size of a weight file. 0 uses the size in the lock file, or `SHARD_BYTES`.
        executor, writer: names of installed plugins.
        force: replace OUT if mergecore wrote it.
        reads: files and folders that the run reads in addition to those in the plan. OUT must not contain them.
        allow_nonfinite: write NaN and infinity.
        file: the name of the writer's only file, if OUT is that file instead of a folder.
        hash_inputs: always record the SHA-256 of the input weight files in the lock file, even if that takes long.
        without: names of post-processors to skip.
        choices: what the user chose for post-processors. See `mergecore.api.MergedModel.choices`.
    """

    memory: int
    workers: int
    shard_bytes: int = 0
    executor: str = "threads"
    force: bool = False
    allow_nonfinite: bool = False
    writer: str = "safetensors"
    file: str | None = None
    hash_inputs: bool = False
    without: tuple[str, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[Path, ...] = ()

    def settled(self, lock: Lock | None) -> Options:
        """Return these options with `shard_bytes` set."""
        return replace(self, shard_bytes=self.shard_bytes or (lock.value["shard_size"] if lock else SHARD_BYTES))


@dataclass(frozen=True)
class Listener:
    """Callbacks for the progress of a run.

    Attributes:
        warn: called with each warning.
        advance: called with the number of output bytes as they are written, from one thread at a time.
        resume: called with the number of tensors that an earlier run finished, the total number, and the bytes done.
        fetch: called with the bytes of weights downloaded so far and in total, from one thread at a time.
        tell: called with each line that post-processors report about the result.
        published: called once all output folders are complete and have their final names.
    """

    warn: Callable[[str], None]
    advance: Callable[[int], None] = lambda count: None
    resume: Callable[[int, int, int], None] = lambda done, total, count: None
    fetch: Callable[[int, int], None] = lambda done, total: None
    tell: Callable[[str], None] = lambda text: None
    published: Callable[[], None] = lambda: None
