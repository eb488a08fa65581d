"""What a transplant holds in memory at one time, and the refusal where that is more than is allowed."""

from __future__ import annotations

from collections.abc import Mapping

from mergecore.api import InputError
from mergecore_tokensurgeon.settings import Settings
from mergecore_tokensurgeon.tables import BATCH, Table


def needed(table: Table, settings: Settings, workers: int) -> int:
    """Bytes: both tables as stored, the shared rows in float32 and in half of it for screening, and batches in work."""
    if table.donor is None or not len(table.made):
        return table.model.info.nbytes
    shared = int((table.source >= 0).sum())
    (_, ours), (_, theirs) = table.model.info.shape, table.donor.info.shape
    picked = min(settings.k, shared)
    batch = BATCH * (4 * shared + 4 * picked * (3 * theirs + ours) + 4 * ours)
    rows = shared * (6 * theirs + 4 * ours)
    return table.model.info.nbytes + table.donor.info.nbytes + rows + workers * batch + 2 * workers * BATCH * 4 * ours


def check(tables: Mapping[str, Table], settings: Settings, workers: int, memory: int) -> None:
    """Refuse a transplant whose tables do not fit; an embedding and a head are made at the same time.

    Raises:
        InputError: it says how much to allow.
    """
    total = sum(needed(table, settings, workers) for table in tables.values())
    if total > memory:
        raise InputError(
            f"{', '.join(tables)}: their rows and those of the donor take {total / 1e6:.0f} MB at one time, more than"
            f" the {memory / 1e6:.0f} MB allowed; give --memory {total // 10**6 + 1}MB"
        )
