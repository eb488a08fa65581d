"""Core's plugins, registered through the same entry points as all others: safetensors files and a thread executor."""

from mergecore.builtin.safetensors import HEADER_LIMIT, as_bytes, write_at
from mergecore.builtin.threads import TILE_ELEMENTS, TileMerger, in_threads

__all__ = [
    "HEADER_LIMIT",
    "TILE_ELEMENTS",
    "TileMerger",
    "as_bytes",
    "in_threads",
    "write_at",
]
