"""Checks that a model folder is whole: `mergecore verify OUT`, and `examine(folder)` for programs."""

from __future__ import annotations

from mergecore_verify.checks import examine
from mergecore_verify.findings import Finding

__all__ = ["Finding", "examine"]
