"""Explain why models of different classes, or with heads for different tasks, cannot be merged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mergecore.definitions import Architecture
from mergecore.errors import ArchitectureError, ModelError
from mergecore.models import Checkpoint

TRAINED_HEAD = re.compile(r"(v|value|score|reward|rm|regression|classification)_head\.|(score|classifier|summary)\.")
"""Start of the names of heads that training adds to a model without changing its class."""


COMPOSITE = "ForConditionalGeneration"
"""Suffix of classes that contain a language model. Classes without it can have the same name up to here."""


class TaskHeadError(ArchitectureError):
    """A model has a head for another task than the output."""


def _check_heads(checkpoint: Checkpoint, config_source: Checkpoint, unknown: Sequence[str]) -> None:
    """Check whether unknown weights of a checkpoint are a head for another task.

    Args:
        checkpoint: the model.
        config_source: the model whose class the output has.
        unknown: names of the weights that this class does not have.

    Raises:
        TaskHeadError: if they are. The message says how to merge the rest of the model.
    """
    own, wanted = _class(checkpoint), _class(config_source)
    stem = wanted.partition("For")[0].removesuffix("Model")
    composite = COMPOSITE in own + wanted
    if not composite and own != wanted and stem and own.startswith((f"{stem}For", f"{stem}Model")):
        what = f"{checkpoint.reference} is a {own}, but {config_source.reference} is a {wanted}, so their heads differ"
        loader = "AutoModel"
    elif own == wanted and all(TRAINED_HEAD.match(name) for name in unknown):
        what = f"{checkpoint.reference} has {unknown[0]!r}, a head for another task that {wanted} does not have"
        loader = wanted
    else:
        return
    raise TaskHeadError(
        f'{what}. To merge the rest, save it without that head and use the new folder in the recipe: python -c "import'
        f" transformers; transformers.{loader}.from_pretrained('{checkpoint.folder}').save_pretrained('FOLDER')\""
    )


def check_accounted(architecture: Architecture, checkpoints: Sequence[Checkpoint], config_source: int) -> None:
    """Check that the architecture of the config source knows every tensor of every checkpoint.

    Raises:
        ArchitectureError: if there are unknown tensors. The message names the first one.
    """
    for checkpoint in checkpoints:
        known = set(architecture.labels(checkpoint.config, checkpoint.reference))
        unknown = sorted(name for name in checkpoint.tensors if name not in known)
        if unknown:
            _check_heads(checkpoint, checkpoints[config_source], unknown)
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            own, wanted = (item.config.get("architectures") for item in (checkpoint, checkpoints[config_source]))
            cure = "install or write the architecture of this checkpoint"
            if own != wanted:
                cure = f"{' '.join(map(str, own or ['a model without a class']))} cannot be merged into it"
            raise ArchitectureError(
                f"{checkpoint.folder}: contains {unknown[0]!r}{more}, unknown to {architecture.name}; mergecore never"
                f" drops tensors silently: {cure}"
            )


@contextmanager
def explain_classes(checkpoints: Sequence[Checkpoint], config_source: int) -> Iterator[None]:
    """If models of different classes do not match, say so before the first difference that was found."""
    try:
        yield
    except TaskHeadError:
        raise
    except (ModelError, ArchitectureError) as error:
        classes = {item.reference: _class(item) for item in (checkpoints[config_source], *checkpoints)}
        (first, wanted), *others = classes.items()
        for other, name in others:
            if name != wanted:
                cause = str(error).rpartition("; ")[0] or error  # the fix is for a broken model
                kind = f"of class {name}" if name else "a model without a class"
                both = f"{other} is {kind}, but {first} is of class {wanted}"
                raise type(error)(f"{both}, and their weights do not match: {cause}") from None
        raise


def _class(checkpoint: Checkpoint) -> str:
    return " ".join(map(str, checkpoint.config.get("architectures") or ()))
