"""Find differences between the models' configs and the config that the output uses."""

from __future__ import annotations

from collections.abc import Sequence

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
