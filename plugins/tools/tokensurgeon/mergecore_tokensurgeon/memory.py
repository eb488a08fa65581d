"""Estimate the peak memory of a transplant, and reject it if it exceeds the limit."""

from __future__ import annotations

from collections.abc import Mapping

from mergecore.api import InputError
from mergecore_tokensurgeon.settings import Settings
from mergecore_tokensurgeon.tables import BATCH, Table


def needed(table: Table, settings: Settings, workers: int) -> int:
    """Return bytes for both stored tables, the shared rows in float32 and half precision, and batches in progress."""
    if table.donor is None or not len(table.made):
        return table.model.info.nbytes
    shared = int((table.source >= 0).sum())
    (_, ours), (_, theirs) = table.model.info.shape, table.donor.info.shape
    picked = min(settings.k, shared)
    batch = BATCH * (4 * shared + 4 * picked * (3 * theirs + ours) + 4 * ours)
    rows = shared * (6 * theirs + 4 * ours)
    return table.model.info.nbytes + table.donor.info.nbytes + rows + workers * batch + 2 * workers * BATCH * 4 * ours


def check(tables: Mapping[str, Table], settings: Settings, workers: int, memory: int) -> None:
    """Reject a transplant whose tables do not fit in memory. The embedding and the head are computed at the same time.

    Raises:
        InputError: The tables do not fit. The message says how much memory to allow.
    """
    total = sum(needed(table, settings, workers) for table in tables.values())
    if total > memory:
        raise InputError(
            f"{', '.join(tables)}: their rows and those of the donor need {total / 1e6:.0f} MB of memory, more than"
            f" the {memory / 1e6:.0f} MB allowed; use --memory {total // 10**6 + 1}MB"
        )
