"""Explain why models of different classes cannot be merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mergecore.errors import ArchitectureError, ModelError
from mergecore.models import Checkpoint


@contextmanager
def explain_classes(checkpoints: Sequence[Checkpoint], config_source: int) -> Iterator[None]:
    """If models of different classes do not match, say so before the first difference that was found."""
    try:
        yield
    except (ModelError, ArchitectureError) as error:
        classes = {checkpoint.reference: " ".join(map(str, checkpoint.config.get("architectures") or ()))
                   for checkpoint in (checkpoints[config_source], *checkpoints)}  # fmt: skip
        (first, wanted), *others = classes.items()
        for other, name in others:
            if name != wanted:
                cause = str(error).rpartition("; ")[0] or error  # the fix is for a broken model
                kind = f"of class {name}" if name else "a model without a class"
                both = f"{other} is {kind}, but {first} is of class {wanted}"
                raise type(error)(f"{both}, and their weights do not match: {cause}") from None
        raise
