"""Core's plugins, registered through the same entry points as all others: safetensors files and a thread executor."""

from mergecore.builtin.safetensors import HEADER_LIMIT

__all__ = ["HEADER_LIMIT"]
