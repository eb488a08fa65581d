"""Notes about the inputs of a plan: configs that differ from the output's, and licenses that conflict."""

from __future__ import annotations

from collections.abc import Sequence

from mergecore.api import license_kind, license_words, licenses_conflict
from mergecore.errors import InputError
from mergecore.models import Checkpoint

VOLATILE = {"dtype", "torch_dtype", "transformers_version", "use_cache", "architectures", "model_type"}
"""Config keys that can differ between models without a note."""


def config_notes(checkpoints: Sequence[Checkpoint], config_source: int, changed: set[str]) -> list[str]:
    """Return a note for each model whose config differs from the config source, not counting `changed` keys."""
    kept, lines = checkpoints[config_source], []
    for checkpoint in checkpoints:
        keys = {*kept.config, *checkpoint.config} - VOLATILE - changed
        differing = sorted(k for k in keys if not k.startswith("_") and kept.config.get(k) != checkpoint.config.get(k))
        if differing:
            lines.append(
                f"{checkpoint.reference}: config differs in {', '.join(differing)}; using that of {kept.reference}"
            )
    return lines


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
