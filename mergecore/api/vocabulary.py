"""The output's vocabulary: what a tokenizer plugin is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api.jobs import ModelInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]


@dataclass(frozen=True)
class TokenizerRequest:
    """What a recipe says of tokenizers, and the models.

    Attributes:
        tokenizer: the recipe's ``tokenizer`` mapping; None: the vocabularies stay as they are.
        chat_template: the recipe's ``chat_template``, if any.
        folder: where the recipe lies; its file names are relative to it.
        models: the input models, in the recipe's order.
        rows: how many rows each model's weights with a vocabulary axis have.
        donor: position in `models` of the base model, else of the first.
        find: the folder of any model by its reference, a local one or one on the Hub, whose small files are fetched;
            raises ModelError where there is none.
    """

    tokenizer: Mapping[str, Any] | None
    chat_template: str | None
    folder: Path
    models: Sequence[ModelInfo]
    rows: Sequence[int]
    donor: int
    find: Callable[[str], Path]


@dataclass(frozen=True)
class Vocabulary:
    """Where the rows of the output's weights with a vocabulary axis come from; two arrays of shape (models, rows).

    Attributes:
        own: the row that a model has for each output row; -1: none.
        common: what stands in where a model has none: the mean of these rows of the models; all -1: zeros.
    """

    own: Rows
    common: Rows


@dataclass(frozen=True)
class OutputTokenizer:
    """A plugin's answer.

    Attributes:
        vocabulary: None: the rows stay as they are.
        files: every tokenizer file of the output, by name.
        config: values for the output's config.json, by dotted key.
        notes: what the author of the recipe should know.
    """

    vocabulary: Vocabulary | None
    files: Mapping[str, bytes]
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
