"""Download the weight files that a plan reads from the Hub before the run, and no others."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable

from mergecore.errors import InputError
from mergecore.models import fetch_in_parallel
from mergecore.planning import Plan


def prefetch(plan: Plan, tell: Callable[[int, int], None]) -> None:
    """Download the files to the Hub cache, several at a time. Files already in the cache are not downloaded again.

    Args:
        plan: the plan whose jobs read the files.
        tell: called with the bytes downloaded so far and in total, from one thread at a time.

    Raises:
        InputError: if a file cannot be downloaded, or the disk of the cache is too small.
    """
    total = plan.download
    missing = [shard for shard in plan.shards if not shard.here]
    for folder in {shard.snapshot.folder for shard in missing}:
        free = shutil.disk_usage(folder).free
        if free < total:
            room = f"has {free / 1e9:.1f} GB free, but the weights to download need {total / 1e9:.1f} GB"
            raise InputError(f"{folder}: {room}; free some space, or set HF_HOME to a folder on another disk")
    done, turn = 0, threading.Lock()

    def work(task: Callable[[Callable[[int], None]], object], check: Callable[[], None]) -> None:
        def advance(count: int) -> None:
            nonlocal done
            check()
            with turn:
                done += count
                tell(done, total)

        task(advance)

    fetch_in_parallel([shard.fetch for shard in missing], work)
