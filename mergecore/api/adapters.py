"""Adapters: what a plugin is asked about a folder that is added to a model, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mergecore.api.files import Reader, TensorInfo
from mergecore.api.jobs import ModelInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AdapterRequest:
    """An adapter's folder and the model that it is added to.

    Attributes:
        folder: of the adapter.
        model: the base, with its own config.json.
        tensors: every tensor that may be changed, by its name in the model's class in transformers; weights that are
            stored in parts, such as experts, stand there as parts and as a whole, and a tied head beside its embedding.
        others: other names, and other beginnings of names: there → here.
        open: opens a weight file with the installed reader of its suffix; core closes it.
    """

    folder: Path
    model: ModelInfo
    tensors: Mapping[str, TensorInfo]
    others: Mapping[str, str]
    open: Callable[[Path], Reader]


class Change(Protocol):
    """What an adapter does to one tensor; can be pickled."""

    def apply(self, start: int, values: Tensor, read: Callable[[int, Tensor], None]) -> None:
        """Change a piece of the tensor in place; the same bits whatever the pieces, from several threads at once.

        Args:
            start: the piece's first element.
            values: flat, float32 or float64: the unchanged elements from `start` on.
            read: fills such a tensor with the unchanged elements from a start on.
        """


@dataclass(frozen=True)
class Adapter:
    """A plugin's answer.

    Attributes:
        summary: what it is in a few words, such as ``LoRA, rank 16, alpha 32``.
        changes: by the name of the tensor.
        files: all that decides the result; a run is not gone on with once one has changed.
    """

    summary: str
    changes: Mapping[str, Change]
    files: Sequence[Path]
