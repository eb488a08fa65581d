"""Report license conflicts between models, and enforce --require-license."""

from __future__ import annotations

from collections.abc import Sequence

from mergecore.api import license_kind, license_words, licenses_conflict
from mergecore.errors import InputError
from mergecore.models import Checkpoint


def license_notes(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return a note with every model's license if the licenses could conflict."""
    if not licenses_conflict([checkpoint.card for checkpoint in checkpoints]):
        return []
    return [f"licenses: {_listed(checkpoints)}; read their terms before you share the result"]


def check_license(wanted: str, checkpoints: Sequence[Checkpoint]) -> None:
    """Raise InputError with every model whose license is not of the required type. "" allows all licenses."""
    others = [checkpoint for checkpoint in checkpoints if wanted and license_kind(checkpoint.card) != wanted]
    if others:
        raise InputError(f"--require-license {wanted}: {_listed(others)}; remove these models or the option")


def _listed(checkpoints: Sequence[Checkpoint]) -> str:
    return ", ".join(f"{item.reference}: {license_words(item.card, item.folder)}" for item in checkpoints)
