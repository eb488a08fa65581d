"""Where the models' configs differ from the one that the output takes over."""

from __future__ import annotations

from collections.abc import Sequence

from mergecore.models import Checkpoint

VOLATILE = {"dtype", "torch_dtype", "transformers_version", "use_cache", "architectures", "model_type"}
"""Config keys in which models may differ without a word."""


def config_notes(checkpoints: Sequence[Checkpoint], donor: int, changed: set[str]) -> list[str]:
    """A sentence for each model whose config differs from the donor's in other keys than the `changed` ones."""
    kept, lines = checkpoints[donor], []
    for checkpoint in checkpoints:
        keys = {*kept.config, *checkpoint.config} - VOLATILE - changed
        differing = sorted(k for k in keys if not k.startswith("_") and kept.config.get(k) != checkpoint.config.get(k))
        if differing:
            lines.append(
                f"{checkpoint.reference}: its config differs in {', '.join(differing)}; {kept.reference}'s is kept"
            )
    return lines
