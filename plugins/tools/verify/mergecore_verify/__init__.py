"""Check that a model folder is complete, with `mergecore verify OUT` or `examine(folder)` from Python."""

from __future__ import annotations

from mergecore_verify.checks import examine
from mergecore_verify.findings import Finding

__all__ = ["Finding", "examine"]
