"""The built-in plugins: the safetensors reader and writer, and the threads executor."""

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
