"""Runs recorded operations of merge methods in native code, several times faster than torch runs them one by one."""

from mergecore_kernels.native import Native

__all__ = ["Native"]
