"""The models' licences: where they do not go together, and the rule that --require-license makes."""

from __future__ import annotations

from collections.abc import Sequence

from mergecore.api import licence_kind, licence_words, licences_conflict
from mergecore.errors import InputError
from mergecore.models import Checkpoint

REQUIRABLE = ("permissive",)
"""What --require-license takes."""


def licence_notes(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """A note that names every model's licence, where one may forbid what another allows."""
    if not licences_conflict([checkpoint.card for checkpoint in checkpoints]):
        return []
    return [f"licences: {_listed(checkpoints)}; read their terms before you share the result"]


def require_licence(wanted: str, checkpoints: Sequence[Checkpoint]) -> None:
    """Raise InputError naming every model whose licence is not of the kind that is wanted; "" wants none."""
    if wanted and wanted not in REQUIRABLE:
        raise InputError(f"--require-license: {wanted!r} is unknown; write permissive")
    others = [checkpoint for checkpoint in checkpoints if wanted and licence_kind(checkpoint.card) != wanted]
    if others:
        raise InputError(f"--require-license {wanted}: {_listed(others)}; leave them out, or run without the option")


def _listed(checkpoints: Sequence[Checkpoint]) -> str:
    return ", ".join(f"{item.reference}: {licence_words(item.card, item.folder)}" for item in checkpoints)
