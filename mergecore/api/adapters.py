"""The request and response types for plugins that apply adapters to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mergecore.api.files import Reader, TensorInfo
from mergecore.api.merged_model import ModelInfo

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AdapterRequest:
    """An adapter folder and the model to apply it to.

    Attributes:
        folder: the adapter folder.
        model: the base model, including its config.json.
        tensors: every tensor that the adapter can change, by its name in the transformers model class. Weights stored
            in parts, such as experts, are listed both as parts and as a whole. A tied head is listed as well.
        others: alternative names and name prefixes, mapped to the names in `tensors`.
        tied: heads without a tensor, mapped to the embedding they are tied to. Unless the adapter changes such a head,
            it follows the embedding.
        open: opens a weight file with the reader installed for its suffix. Core closes the file.
    """

    folder: Path
    model: ModelInfo
    tensors: Mapping[str, TensorInfo]
    others: Mapping[str, str]
    tied: Mapping[str, str]
    open: Callable[[Path], Reader]


class Change(Protocol):
    """The change that an adapter makes to one tensor. Must be picklable."""

    def apply(self, start: int, values: Tensor, read: Callable[[int, Tensor], None]) -> None:
        """Change a piece of the tensor in place. The result must not depend on how the tensor is cut into pieces.

        Called from several threads at once.

        Args:
            start: flat index of the first element of the piece.
            values: flat float32 or float64 tensor with the unchanged elements, starting at `start`.
            read: fills a tensor of the same kind with the unchanged elements, starting at a given index.
        """


@dataclass(frozen=True)
class Adapter:
    """The plugin's response.

    Attributes:
        summary: a short description, such as ``LoRA, rank 16, alpha 32``.
        changes: the change for each tensor, by tensor name.
        rows: the new number of rows of each tensor that the adapter resizes, because its vocabulary has another size.
            Elements beyond the end of the model's tensor read as zero.
        files: all files that affect the result. A run is not resumed if one of them has changed.
    """

    summary: str
    changes: Mapping[str, Change]
    files: Sequence[Path]
    rows: Mapping[str, int] = field(default_factory=dict)
