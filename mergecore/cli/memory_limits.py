"""Recognize errors that mean that memory ran out, and say which limit to raise."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from mergecore.errors import RunError
from mergecore.system import limit_of

SIGNS = ("failed to map segment", "cannot allocate memory", "can't allocate memory", "can't start new thread")
"""Parts of the messages of the linker, the system, torch, and Python."""

LEAST = 10**9
"""Bytes of address space to require. With less, torch and NumPy can end the process with messages of their own."""


def explain_memory(error: BaseException) -> str:
    """Return what to do if an error means that memory ran out, or else an empty string."""
    if not any(map(_is_about_memory, _chain(error))):
        return ""
    if limit := limit_of("AS"):
        return _limited(limit)
    return "out of memory or threads; use a smaller --memory and fewer --workers, or free some memory"


def check_address_space() -> None:
    """Raise RunError if the address space is too small to import torch and NumPy."""
    limit = limit_of("AS")
    if limit is not None and limit < LEAST:
        raise RunError(_limited(limit))


def _limited(limit: int) -> str:
    return (
        f"out of memory: this shell limits the address space to {limit / 1e6:.0f} MB;"
        " raise the limit with: ulimit -v unlimited"
    )


def _is_about_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return any(sign in str(error).lower() for sign in SIGNS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
